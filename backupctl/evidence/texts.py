"""Every word of the report, in English and in Traditional Chinese as used in Taiwan. Placeholders are `str.format` names."""

from __future__ import annotations

from typing import Literal

from backupctl.errors import UsageError

Language = Literal["en", "zh-TW"]
LANGUAGES: tuple[Language, ...] = ("en", "zh-TW")

TEXTS: dict[str, tuple[str, str]] = {
    # cover
    "title": ("Quarterly recovery report", "季度復原演練報告"),
    "organisation": ("Organisation", "機關"),
    "no_organisation": ("(not named in the configuration)", "（設定檔未指定）"),
    "quarter": ("Quarter", "季別"),
    "quarter_name": (
        "{year} Q{number} ({first} to {last}, {zone})",
        "{year} 年第 {number} 季（{first} 至 {last}，{zone}）",
    ),
    "report_id": ("Report", "報告編號"),
    "generated": ("Generated", "產製時間"),
    "tool": ("Made by", "產製工具"),
    "hash": ("SHA-256 of the report", "報告 SHA-256 雜湊值"),
    "hash_footer": ("Report SHA-256", "報告 SHA-256"),
    "page": ("page {page} of {pages}", "第 {page} 頁，共 {pages} 頁"),
    "conclusion": ("Conclusion", "結論"),
    "conclusion_pass": (
        "Restores were proven; nothing is left to explain.",
        "已證明可還原，無待說明事項。",
    ),
    "conclusion_attention": (
        "Restores were proven, with points that need explanation.",
        "已證明可還原，但有待說明事項。",
    ),
    "conclusion_none": ("Nothing was proven this quarter.", "本季未證明任何備份可還原。"),
    "conclusion_fail": ("Something is bad and must be repaired.", "發現異常，必須改善。"),
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
    # sections
    "summary": ("Summary", "摘要"),
    "objectives": ("Achieved against objectives", "復原目標達成情形"),
    "drill_log": ("Drill log", "還原演練紀錄"),
    "controls": ("Negative controls", "負向對照測試"),
    "selection": ("How snapshots were drawn", "快照抽樣證明"),
    "trend": ("Trend by quarter", "各季趨勢"),
    "not_drilled": ("Not drilled", "未演練項目"),
    "integrity": ("Integrity", "完整性檢核"),
    "operation": ("Backup operation", "備份作業"),
    "suspicious": ("Suspicious snapshots", "可疑快照"),
    "findings": ("Findings and corrective action", "缺失與矯正措施"),
    "holds": ("Holds", "保留限制"),
    "limits": ("Limits: what was not tested", "限制：未測試事項"),
    "sign_off": ("Sign-off", "簽核"),
    "evidence": ("Evidence index", "證據索引"),
    "definitions": ("How to read and verify this report", "名詞定義與驗證方法"),
    # summary tiles
    "tile_drills": ("Drills passed", "演練通過"),
    "tile_drills_note": (
        "planned {planned} · due {due} · not run {not_run}",
        "計畫 {planned}．應執行 {due}．未執行 {not_run}",
    ),
    "tile_verdicts": (
        "failed {failed} · inconclusive {inconclusive} · stale {stale} · skipped {skipped}",
        "失敗 {failed}．無法判定 {inconclusive}．資料過舊 {stale}．略過 {skipped}",
    ),
    "tile_jobs": ("Jobs drilled", "已演練作業"),
    "tile_jobs_note": ("never drilled: {never_drilled}", "從未演練：{never_drilled}"),
    "tile_rto": ("Worst recovery time", "最差復原時間"),
    "tile_rpo": ("Worst data loss", "最差資料損失時間"),
    "tile_ratio_note": ("{ratio} of the objective {objective} · {job}", "為目標 {objective} 的 {ratio}．{job}"),
    "tile_integrity": ("Bytes read and verified", "已讀取驗證之資料量"),
    "tile_integrity_note": (
        "repositories read in full: {read_in_full} of {repositories}",
        "完整讀取之備份庫：{repositories} 個中有 {read_in_full} 個",
    ),
    "tile_findings": ("Open findings", "未結案缺失"),
    "tile_findings_note": (
        "critical {critical} · major {major} · minor {minor} · overdue {overdue}",
        "嚴重 {critical}．主要 {major}．次要 {minor}．逾期 {overdue}",
    ),
    "tile_backups": ("Backups complete at first attempt", "備份首次即完成"),
    "not_measured": ("not measured", "未量測"),
    "lower": ("≥ {bound} at 95 %", "95 % 信賴下限 {bound}"),
    "tile_audit": ("Audit trail", "稽核軌跡"),
    "tile_audit_note": ("events: {events}", "事件：{events} 筆"),
    "whole": ("whole", "完整無缺"),
    "broken": ("broken", "遭破壞"),
    "restored_from": ("Restored from", "還原來源"),
    "tile_controls": ("Negative controls seen", "負向對照測試發現"),
    "tile_controls_note": ("damage not seen: {missed}", "未發現損壞：{missed}"),
    # drills about themselves
    "no_controls": (
        "No negative control was run: that a drill sees damage was not shown.",
        "未執行負向對照測試：無從證明演練能發現損壞。",
    ),
    "controls_are": (
        "Each drilled a copy that was damaged on purpose, in memory; the drill had to say fail.",
        "各次均以記憶體中刻意損壞之副本演練；演練必須判定為失敗。",
    ),
    "damaged_object": ("Object (end of its name)", "物件（名稱末段）"),
    "damage": ("Damage", "損壞方式"),
    "drill_said": ("The drill said", "演練判定"),
    "control_pass": ("seen", "已發現"),
    "control_fail": ("not seen: the drill system is broken", "未發現：演練系統失效"),
    "control_open": ("could not run", "未能執行"),
    "no_draws": (
        "Nothing was drawn: drills took the newest snapshot, or one that somebody chose.",
        "未抽樣：演練採用最新快照或人員指定之快照。",
    ),
    "draws_are": (
        (
            "Every draw of the quarter, computed again from the audit trail. The commitment came first; the secret was revealed "
            "with the draw, before anything was restored."
        ),
        "本季所有抽樣，皆由稽核軌跡重新計算。先承諾、後揭露；秘密值於抽樣時、還原前公開。",
    ),
    "drawn_at": ("Drawn (event)", "抽樣（事件）"),
    "committed_at": ("Committed (event)", "承諾（事件）"),
    "drawn": ("Drawn: age · place · source", "抽中：時齡．位置．來源"),
    "candidates": ("Candidates", "候選"),
    "recomputed": ("Computed again", "重新計算"),
    "as_recorded": ("as recorded", "相符"),
    "no_result": ("no result", "無結果"),
    "secret": ("secret", "秘密值"),
    "event_hash": ("committing event", "承諾事件"),
    "step_t1": ("t1 decided", "t1 決定還原點"),
    "step_keys": ("of it keys", "其中取得金鑰"),
    "step_t2": ("t2 first byte", "t2 開始讀取"),
    "step_t3": ("t3 restored", "t3 還原完成"),
    "step_t4": ("t4 compared", "t4 比對完成"),
    "step_t5": ("t5 usable", "t5 服務可用"),
    "figure_steps": ("From declaration (t0) to service (t5)", "自宣告（t0）至服務可用（t5）"),
    "heartbeat": ("Newest change proven", "經證明之最新異動"),
    "interlocks": ("Interlocks", "安全聯鎖"),
    "probe_evidence": ("Evidence, SHA-256 begins", "證據 SHA-256 前段"),
    "estimate": ("Estimate, not measured", "推估（非實測）"),
    "estimate_line": ("{time} for {size} in production", "正式環境 {size} 約需 {time}"),
    "estimates_are": (
        "Estimates of a recovery in production. They were not measured and are set against no objective.",
        "以下為正式環境復原時間之推估，並非實測，亦不與目標比較。",
    ),
    "estimated_bytes": ("Bytes there", "正式資料量"),
    "measured_bytes": ("Bytes drilled", "演練資料量"),
    "scale": ("Speed of staging host", "演練主機速度"),
    "no_trend": ("No drill is on record.", "無任何演練紀錄。"),
    "figure_quarters": ("Worst recovery time by quarter, as a share of its objective", "各季最差復原時間與目標之比"),
    "drills_run": ("Drills", "演練次數"),
    "bound": ("Lower bound, 95 %", "95 % 信賴下限"),
    "ratio_median": ("RTO ratio, median", "RTO 比值中位數"),
    "ratio_worst": ("RTO ratio, worst", "RTO 比值最差"),
    "was_not_performed": ("not performed", "未執行"),
    # columns
    "job": ("Job", "備份作業"),
    "class": ("Class", "等級"),
    "owner": ("Owner", "負責人"),
    "rto_objective": ("RTO objective", "RTO 目標"),
    "rto_median": ("RTO median", "RTO 中位數"),
    "rto_worst": ("RTO worst", "RTO 最差"),
    "rpo_objective": ("RPO objective", "RPO 目標"),
    "rpo_median": ("RPO median", "RPO 中位數"),
    "rpo_worst": ("RPO worst", "RPO 最差"),
    "ratio": ("Ratio", "比值"),
    "count": ("n", "次數"),
    "level": ("Level", "證明層級"),
    "highest_level": ("Highest level", "最高證明層級"),
    "last_drill": ("Last drill", "最近演練"),
    "verdict": ("Verdict", "判定"),
    "passed": ("Passed", "通過"),
    "drill": ("Drill", "演練"),
    "when": ("Declared", "宣告時間"),
    "achieved_rto": ("RTO achieved", "實測 RTO"),
    "achieved_rpo": ("RPO achieved", "實測 RPO"),
    "objective": ("Objective", "目標"),
    "ever_drilled": ("Last drilled", "上次演練"),
    "first_backup": ("First backup", "首次備份"),
    "days_since": ("Days since", "距今天數"),
    "drill_configured": ("Drill configured", "已設定演練"),
    "repository": ("Repository", "備份庫"),
    "bytes_there": ("Bytes there", "現有資料量"),
    "bytes_read": ("Bytes read", "已讀取資料量"),
    "share": ("Share", "比例"),
    "checks": ("Checks", "檢核次數"),
    "last_check": ("Last check", "最近檢核"),
    "last_full_read": ("Last full reading", "最近完整讀取"),
    "object": ("Object", "物件"),
    "problem": ("Problem", "問題"),
    "first_attempt": ("Complete at first attempt", "首次即完成"),
    "missed": ("Missed", "未執行"),
    "days": ("Days complete", "完整備份天數"),
    "last_complete": ("Last complete backup", "最近完整備份"),
    "age": ("Age", "距今"),
    "size": ("Size", "大小"),
    "severity": ("Severity", "嚴重性"),
    "finding": ("Finding", "缺失"),
    "opened": ("Opened", "開立日"),
    "due": ("Due", "期限"),
    "age_days": ("Age, days", "經過天數"),
    "status": ("Status", "狀態"),
    "snapshot": ("Snapshot", "快照"),
    "reason": ("Reason", "原因"),
    "expires": ("Expires", "到期"),
    "kind": ("Kind", "種類"),
    "of": ("Of", "對象"),
    "record": ("Sealed record (name = its SHA-256)", "封存紀錄（名稱即 SHA-256）"),
    "check": ("Check", "檢核項目"),
    "expected": ("Expected", "預期"),
    "actual": ("Actual", "實際"),
    "result": ("Result", "結果"),
    "role": ("Role", "職務"),
    "name": ("Name", "姓名"),
    "date": ("Date", "日期"),
    "signature": ("Signature", "簽章"),
    # values
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "none": ("none", "無"),
    "never": ("never", "從未"),
    "low": ("low", "普"),
    "medium": ("medium", "中"),
    "high": ("high", "高"),
    "pass": ("pass", "通過"),
    "fail": ("fail", "失敗"),
    "inconclusive": ("inconclusive", "無法判定"),
    "stale": ("stale", "資料過舊"),
    "skipped": ("skipped", "略過"),
    "critical": ("critical", "嚴重"),
    "major": ("major", "主要"),
    "minor": ("minor", "次要"),
    "structure": ("structure", "結構"),
    "read-data": ("all bytes", "全部資料"),
    "queued": ("queued", "排隊中"),
    "running": ("running", "執行中"),
    "complete": ("complete", "完整"),
    "incomplete": ("incomplete", "不完整"),
    "failed": ("failed", "失敗"),
    "cancelled": ("cancelled", "取消"),
    "open": ("open", "未結案"),
    "overdue": ("overdue", "逾期"),
    "closed": ("closed {date}", "{date} 結案"),
    "active": ("active", "有效"),
    "expired": ("expired", "已到期"),
    "kind_drill": ("drill", "演練"),
    "kind_check": ("check", "檢核"),
    "kind_fingerprint": ("fingerprint", "內容指紋"),
    "kind_hold": ("hold", "保留限制"),
    # drill cards
    "older_point": (
        "an older snapshot was tested on purpose: not set against the objective",
        "刻意測試較舊之快照，不與目標比較",
    ),
    "card_facts": (
        "repository {repository}, snapshot {snapshot}; scenario {scenario} on {host}",
        "備份庫 {repository}，快照 {snapshot}；情境 {scenario}，於 {host}",
    ),
    "card_age": ("{time}, {age} before the declaration", "{time}，早於宣告 {age}"),
    "card_restored": ("Bytes restored", "還原資料量"),
    "reasons": ("Reasons", "原因"),
    "cleanup": ("Clean-up", "清理"),
    "cleanup_proved": ("proved", "已證明清除"),
    "cleanup_unproven": ("not proved", "未證明清除"),
    "checks_made": ("{ok} of {count} checks as expected", "{count} 項檢核中 {ok} 項符合預期"),
    "checks_column": ("Checks", "檢核"),
    "no_checks": ("No check was made.", "未執行任何檢核。"),
    "checks_not_as_expected": (
        "{count} more checks were not as expected and are in the JSON.",
        "另有 {count} 項檢核不符預期，詳見 JSON。",
    ),
    "checks_as_expected": (
        "{count} more checks were as expected and are in the JSON.",
        "另有 {count} 項檢核符合預期，詳見 JSON。",
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
    # figures
    "figure_rto": ("Recovery time achieved (worst) against objective", "實測復原時間（最差）與目標"),
    "figure_rpo": ("Data loss achieved (worst) against objective", "實測資料損失時間（最差）與目標"),
    "figure_phases": ("Time by phase", "各階段時間"),
    "figure_calendar": ("Complete backups, day by day", "每日完整備份情形"),
    "figure_trend": ("Drills of the quarter in order", "本季演練依序判定"),
    "cell_c": ("complete", "完整"),
    "cell_i": ("incomplete", "不完整"),
    "cell_f": ("failed", "失敗"),
    "cell_n": ("none", "無備份"),
    "cell_-": ("not due", "無排程"),
    "cell_r": ("running", "執行中"),
    "cell_u": ("before the first record", "首筆紀錄之前"),
    "cell_.": ("not yet", "尚未到期"),
    # operation
    "runs_line": (
        (
            "complete {complete} · incomplete {incomplete} · failed {failed} · skipped {skipped} · "
            "cancelled {cancelled} · not finished {live}"
        ),
        "完整 {complete}．不完整 {incomplete}．失敗 {failed}．略過 {skipped}．取消 {cancelled}．未結束 {live}",
    ),
    "runs": ("Backup runs", "備份執行次數"),
    "notices": ("Notices", "通知"),
    "notices_line": (
        "{sent} sent · {delivered} delivered · {failed} not delivered",
        "發送 {sent}．送達 {delivered}．未送達 {failed}",
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
    # sign-off
    "preparer": ("Prepared by", "製表人"),
    "system_owner": ("System owner", "系統權責主管"),
    "security_officer": ("Chief information security officer", "資通安全長"),
    "sign_note": (
        "Signing confirms the report with the SHA-256 printed at the foot of this page.",
        "簽核對象為頁尾所列 SHA-256 雜湊值之報告。",
    ),
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


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise UsageError(f"no report in language {language!r}", next_step="choose en or zh-TW")
        self.language = language
        self._index = LANGUAGES.index(language)

    def __call__(self, key: str, **values: object) -> str:
        return TEXTS[key][self._index].format(**values)

    def known(self, key: str) -> str:
        """The word for a value of the catalog, or the value itself when it is not one of ours."""
        return TEXTS[key][self._index] if key in TEXTS else key

    @property
    def comma(self) -> str:
        return "、" if self.language == "zh-TW" else ", "

    @property
    def between_sentences(self) -> str:
        return "" if self.language == "zh-TW" else " "
