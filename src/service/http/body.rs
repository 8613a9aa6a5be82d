//! What bodies have in common.

use serde::Deserialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::problem::Problem;
use super::request::check_words;
use crate::store::dead_letters::Operator;

/// Why something is ended.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reason {
    /// Your own words, for the event; at most 1024 bytes.
    #[schema(max_length = 1024)]
    pub(super) reason: Option<String>,
}

impl Reason {
    /// The words, if they are within limits.
    pub(super) fn checked(self) -> Result<Option<String>, Problem> {
        check_words(None, self.reason.as_deref())?;
        Ok(self.reason)
    }
}

/// Who does something, and why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct By {
    /// Who you are, for the log; by default the role of your token.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub(super) actor: Option<String>,
    /// Your own words, for the log; at most 1024 bytes.
    #[schema(max_length = 1024)]
    pub(super) reason: Option<String>,
}

impl By {
    /// The operator that stands on the log with what is done.
    pub(super) fn operator(&self, caller: Caller) -> Result<Operator, Problem> {
        operator(caller, self.actor.as_deref(), self.reason.as_deref())
    }
}

/// The operator that stands on the log with what is done.
pub(super) fn operator(caller: Caller, actor: Option<&str>, reason: Option<&str>) -> Result<Operator, Problem> {
    check_words(actor, reason)?;
    Ok(Operator::new(actor.unwrap_or(caller.name()), reason))
}
