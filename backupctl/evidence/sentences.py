"""What the report says in whole sentences: findings, limits, definitions. English, Traditional Chinese; see `texts`."""

from __future__ import annotations

SENTENCES: dict[str, tuple[str, str]] = {
    # statements
    "controls_missed": (
        "Negative controls of which the drills did not see the damage: {missed} of {run}. The drill system is broken.",
        "負向對照測試未被演練發現損壞：{run} 次中有 {missed} 次。演練系統失效。",
    ),
    "draws_faulty": (
        "Draws that do not follow from their commitment: {faulty} of {draws}.",
        "抽樣結果與事前承諾不符：{draws} 次中有 {faulty} 次。",
    ),
    "no_drill": (
        "No drill was run this quarter: no backup was shown to be restorable.",
        "本季未執行任何還原演練：沒有任何備份經證明可還原。",
    ),
    "drills_failed": ("Drills that failed: {failed} of {run}.", "還原演練失敗：{run} 次中有 {failed} 次。"),
    "nothing_decided": (
        "No drill came to a result about a backup ({run} run).",
        "還原演練均未得出備份是否可用的結果（執行 {run} 次）。",
    ),
    "checks_failed": ("Repository checks that found damage: {count}.", "備份庫檢核發現損壞：{count} 次。"),
    "audit_broken": (
        "The audit trail is broken, first at event {number}.",
        "稽核軌跡遭破壞，首見於第 {number} 筆事件。",
    ),
    "rto_missed": (
        "The recovery time objective was missed: {achieved} against {objective} ({job}).",
        "未達復原時間目標：{job} 實測 {achieved}，目標 {objective}。",
    ),
    "rpo_missed": (
        "The recovery point objective was missed: {achieved} against {objective} ({job}).",
        "未達復原點目標：{job} 實測 {achieved}，目標 {objective}。",
    ),
    "jobs_undrilled": (
        "Jobs without a drill that came to a result this quarter: {undrilled} of {total}, never drilled: {never_drilled}.",
        "本季無有效還原演練之備份作業：{total} 項中有 {undrilled} 項，其中從未演練 {never_drilled} 項。",
    ),
    "drills_undecided": (
        "Drills that said nothing about the backup (inconclusive, stale or skipped): {count} of {run}.",
        "未能判定備份是否可用之還原演練（無法判定、資料過舊或略過）：{run} 次中有 {count} 次。",
    ),
    "draws_without_result": (
        "Draws that led to no recorded drill: {without_result} of {draws}.",
        "抽樣後無演練紀錄：{draws} 次中有 {without_result} 次。",
    ),
    "drills_not_run": (
        "Drills that were due and did not run: {not_run} of {due}.",
        "應執行而未執行之還原演練：{due} 次中有 {not_run} 次。",
    ),
    "not_read": (
        "Repositories not read in full this quarter: {count} of {total}.",
        "本季未完整讀取檢核之備份庫：{total} 個中有 {count} 個。",
    ),
    "reading_missed": (
        "Repositories of which some bytes were not read back as often as the objective asks: {count} of {total}.",
        "部分資料未依目標期限讀取檢核之備份庫：訂有目標之 {total} 個中有 {count} 個。",
    ),
    "days_without": (
        "Days without the complete backups they should have, over all jobs: {days}.",
        "缺少應有完整備份之天數（各作業合計）：{days} 天。",
    ),
    "suspicious_open": (
        "Suspicious snapshots that nobody has cleared: {count} of {total}; {unseen} of them nobody has looked at.",
        "尚未排除之可疑快照：{total} 個中有 {count} 個，其中 {unseen} 個無人處理。",
    ),
    "findings_overdue": ("Findings overdue: {count}.", "逾期未改善之缺失：{count} 項。"),
    "drills_passed": (
        "Drills that passed: {passed} of {run}. At 95 % confidence this proves a success rate of at least {lower95}.",
        "還原演練通過：{run} 次中有 {passed} 次。以 95 % 信賴水準，僅足以證明成功率不低於 {lower95}。",
    ),
    # empty sections
    "no_jobs": ("No job is configured.", "未設定任何備份作業。"),
    "all_drilled": ("Every job had a drill with a result this quarter.", "本季所有備份作業皆已完成還原演練。"),
    "no_findings": ("No finding was open during the quarter.", "本季無未結案缺失。"),
    "no_suspicious": (
        "No snapshot of the quarter was marked suspicious. What the signs do not see is in the documentation.",
        "本季無快照被標示為可疑；偵測之限制詳見使用說明。",
    ),
    "suspicious_line": (
        "{total} suspicious: {unseen} that nobody has looked at · {acknowledged} being dealt with · {cleared} cleared",
        "可疑 {total} 個：無人處理 {unseen}．處理中 {acknowledged}．已排除 {cleared}",
    ),
    "suspicion_unseen": ("nobody has looked at it", "無人處理"),
    "suspicion_acknowledged": ("being dealt with", "處理中"),
    "suspicion_cleared": ("cleared", "已排除"),
    "signals": ("What was seen", "異常跡象"),
    "no_holds": ("No snapshot is under a hold.", "目前無快照受保留限制。"),
    "no_evidence": ("There is no sealed record for this quarter.", "本季無封存紀錄。"),
    "no_repository": ("No repository is in use.", "未使用任何備份庫。"),
    "every_byte": ("Every byte of {repository}", "{repository} 全部資料"),
    "reading_since": (
        "Read back, or written, since {since}, by the check of {as_of}.",
        "自 {since} 起皆曾讀取驗證或寫入（依 {as_of} 之檢核）。",
    ),
    "reading_new": (
        "Written since then and not read back yet: {size}.",
        "其中 {size} 於此後寫入，尚未讀取驗證。",
    ),
    "reading_met": ("Objective {within}: met ({age}).", "目標 {within}：達成（{age}）。"),
    "reading_missed_by": ("Objective {within}: missed ({age}).", "目標 {within}：未達成（{age}）。"),
    "reading_not_shown": ("Objective {within}: not shown to be met.", "目標 {within}：無從證明達成。"),
    "reading_unknown": (
        "No check on record says since when every byte was read back.",
        "尚無檢核紀錄可證明全部資料自何時起皆曾讀取。",
    ),
    "tile_reading_note": ("every byte read or written since {date}", "自 {date} 起全部資料皆曾讀取或寫入"),
    "no_problems": ("No check of the quarter reported a problem.", "本季檢核未回報任何問題。"),
    "no_check_at_all": (
        "No check was run this quarter: no problem could have been found.",
        "本季未執行檢核，無從發現問題。",
    ),
    # limits
    "quarter_open": (
        "The quarter is not over: this report covers it up to {until}.",
        "本季尚未結束：本報告涵蓋至 {until}。",
    ),
    "level_not_reached": (
        "The highest level proven is L{level}. L6, a restore timed end to end from a bare host, was not done.",
        "最高證明層級為 L{level}；未執行 L6（自空機起全程計時之還原）。",
    ),
    "oldest_restored": (
        "The oldest snapshot restored was {seconds} old when its drill began. Older ones were not tested.",
        "還原過之最舊快照於演練宣告時已存在 {seconds}，更舊之快照未測試。",
    ),
    "staged_here": (
        "Drills on {hosts} ran on the backup machine itself: the loss of that machine was not rehearsed.",
        "於 {hosts} 之演練在備份主機上執行：未演練該主機本身損失之情境。",
    ),
    "local_repository": (
        "On storage local to the backup machine, not an off-site copy: {repositories}.",
        "位於備份主機本地儲存，並非異地備份：{repositories}。",
    ),
    "no_drill_configured": ("No drill is configured: {jobs}.", "未設定還原演練：{jobs}。"),
    "not_read_in_full": (
        "Not every byte was read this quarter, and damage in the rest would not have been seen: {repositories}.",
        "本季未讀取全部資料，其餘部分若有損壞不會被發現：{repositories}。",
    ),
    "cleanup_unproved": (
        "Removal of the restored data was not proved: {drills}.",
        "未證明還原之資料已清除：{drills}。",
    ),
    "days_unrecorded": (
        "Nothing is on record before the first backup; those days are shown as such, not as failures: {jobs}.",
        "首次備份之前無紀錄，圖中另行標示，不計為失敗：{jobs}。",
    ),
    "removed_jobs": ("Ran this quarter and is no longer configured: {jobs}.", "本季曾執行，現已自設定移除：{jobs}。"),
    "no_control": (
        "No negative control passed this quarter: that the drills see damage rests on their word.",
        "本季無通過之負向對照測試：演練能否發現損壞，僅憑其自身判定。",
    ),
    "not_performed": (
        "Drills with something asked for that could not be performed there, such as a malware scan: {drills}.",
        "演練中有要求但未能執行之項目（例如惡意程式掃描）：{drills}。",
    ),
    "audit_end": (
        (
            "The audit trail has {number} events. A cut at its end would not show in it: "
            "compare its newest hash with the one in an earlier report."
        ),
        "稽核軌跡共 {number} 筆事件。若尾端遭刪除，軌跡本身無法顯示；請與先前報告所載之最新雜湊值比對。",
    ),
    # audit
    "audit": ("Audit trail", "稽核軌跡"),
    "audit_intact": ("{events} events, whole; newest hash {head}", "{events} 筆事件，完整無缺；最新雜湊值 {head}"),
    "audit_empty": ("no event is on record", "無任何事件紀錄"),
    "audit_faulty": ("{events} events, broken: {faults}", "{events} 筆事件，已遭破壞：{faults}"),
    # definitions
    "define_rto": (
        (
            "RTO achieved: from the declaration of the disaster to validated service. "
            "RPO achieved: from the newest change proven present to the instant of the disaster. "
            "Ratio: achieved divided by objective; above 1 the objective is missed."
        ),
        (
            "實測 RTO：自宣告災害至服務經驗證可用。"
            "實測 RPO：自經證明存在之最新異動至災害發生。"
            "比值：實測除以目標，大於 1 表示未達目標。"
        ),
    ),
    "define_steps": (
        (
            "t0 the disaster is declared; t1 the snapshot is chosen, keys are fetched and the repository is open; t2 the first "
            "byte is read; t3 the last byte is restored; t4 the content is compared; t5 every probe answered. RTO achieved is "
            "t5 − t0. Where a heartbeat was read from the restored data, RPO achieved counts from it."
        ),
        (
            "t0 宣告災害；t1 選定快照、取得金鑰並開啟備份庫；t2 讀取第一個位元組；t3 還原最後一個位元組；t4 內容比對完成；"
            "t5 探測全數通過。實測 RTO 為 t5 − t0。若自還原資料讀得心跳紀錄，實測 RPO 即由其起算。"
        ),
    ),
    "define_estimate": (
        "Estimate: t2 + (t5 − t2) × bytes there / bytes drilled × speed of the staging host against production.",
        "推估：t2 +（t5 − t2）× 正式資料量／演練資料量 × 演練主機相對正式環境之速度。",
    ),
    "define_draw": (
        (
            "Draw: the seed is SHA-256(secret ‖ hash of the committing event), the commitment SHA-256(secret). Of the candidates "
            "that one is drawn whose SHA-256(seed ‖ dimension ‖ 00 ‖ candidate) is smallest. All of it is in the JSON."
        ),
        (
            "抽樣：種子為 SHA-256（秘密值‖承諾事件雜湊值），承諾為 SHA-256（秘密值）。"
            "候選中 SHA-256（種子‖面向‖00‖候選）最小者中選。完整資料載於 JSON 之 selection。"
        ),
    ),
    "define_levels": (
        (
            "Levels: L0 exit status, L1 objects present, L2 bytes and key good, L3 native restore without errors, "
            "L4 content equals the fingerprint taken at backup time, L5 application probe, "
            "L6 timed end to end from a bare host."
        ),
        (
            "證明層級：L0 結束狀態、L1 物件存在、L2 資料與金鑰正確、L3 原生還原無誤、"
            "L4 內容與備份當時之指紋相符、L5 應用程式探測、L6 自空機起全程計時。"
        ),
    ),
    "define_verdicts": (
        (
            "Verdicts: pass; fail (the backup is bad); inconclusive (the drill could not run); "
            "stale (nothing recent to test); skipped. "
            "Only a pass counts as success; all others stay in the denominator."
        ),
        (
            "判定：通過；失敗（備份不可用）；無法判定（演練未能執行）；資料過舊（無近期備份可測）；略過。"
            "僅「通過」計為成功，其餘皆計入分母。"
        ),
    ),
    "define_bound": (
        "Beside each rate stands the lower bound (one-sided, 95 %, Clopper–Pearson) of the true rate: few trials prove little.",
        "各比率旁附真實比率之 95 % 單側信賴下限（Clopper–Pearson）：次數少，所能證明者亦少。",
    ),
    "define_hash": (
        (
            "The JSON file of this report is its source of truth. "
            "Run sha256sum {file} on it: the SHA-256 that stands on every page must come out."
        ),
        "本報告以 JSON 檔為準。執行「sha256sum {file}」，結果須與每頁所載 SHA-256 相同。",
    ),
}
