//! The stream of metrics snapshots: short-lived, outside the audit log.

use std::time::Duration;

use super::document::timestamp;
use super::{Store, StoreError};
use crate::domain::event::EventType;
use crate::domain::id::ReplicaId;

/// How long snapshots are kept.
const RETENTION: Duration = Duration::from_secs(3600);

impl Store {
    /// Appends a replica's snapshot number `seq`, and forgets those of an hour ago.
    ///
    /// # Errors
    ///
    /// Any [`StoreError`]; calling again may append it twice.
    pub async fn publish_snapshot(&self, replica: ReplicaId, seq: u64, payload: &str) -> Result<(), StoreError> {
        let now_ms = self.now_ms().await?;
        let event_id = format!("{replica}/{seq}");
        let oldest_ms = now_ms.saturating_sub(i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX));
        let mut command = redis::cmd("XADD");
        command
            .arg(self.keys().metrics())
            .arg("MINID")
            .arg("~")
            .arg(oldest_ms.max(0))
            .arg("*");
        let fields = [
            ("event_type", EventType::MetricsSnapshot.as_str()),
            ("source_agent", &format!("orchestration-runtime/{replica}")),
            ("event_id", &event_id),
            ("correlation_id", &event_id),
            ("causation_id", &event_id),
            ("timestamp", &timestamp(now_ms)),
            ("payload", payload),
        ];
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        self.send(&command).await.map(drop)
    }
}
