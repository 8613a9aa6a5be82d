//! A program that was built without traces: nothing is done.

#![allow(clippy::unused_self, reason = "the same calls make spans with the feature `otlp`")]

use super::{Attempt, Ingested};

/// An inbound event was acted upon.
pub(in crate::runtime) fn ingested<'a>(_: impl FnOnce() -> Ingested<'a>, _: u64) {}

/// An attempt that runs.
pub(in crate::runtime) struct AttemptSpan;

impl AttemptSpan {
    /// It starts.
    pub(in crate::runtime) fn begin<'a>(_: impl FnOnce() -> Attempt<'a>) -> Self {
        Self
    }

    /// What its handler is to hand on, in place of the trigger's.
    pub(in crate::runtime) fn context(&self) -> Option<(String, Option<String>)> {
        None
    }

    /// It ended.
    pub(in crate::runtime) fn end(self, _: &'static str) -> Option<ResultSpan> {
        None
    }
}

/// The way of a result into Redis; there is none.
pub(in crate::runtime) enum ResultSpan {}

impl ResultSpan {
    /// Redis answered.
    pub(in crate::runtime) fn end(self, _: &'static str) {
        match self {}
    }
}
