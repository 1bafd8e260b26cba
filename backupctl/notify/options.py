"""What a channel of `notify:` may hold. The models stand in `config`, which composes them; it may not import this room."""

from __future__ import annotations

from backupctl.config.channels import (
    AppriseOptions,
    EmailOptions,
    HeartbeatOptions,
    NotifyOptions,
    WebhookOptions,
    check_url,
)

__all__ = ["AppriseOptions", "EmailOptions", "HeartbeatOptions", "NotifyOptions", "WebhookOptions", "check_url"]
