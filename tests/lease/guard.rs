//! The guards, each of which can be left out to see that it is needed.

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// `settle` does not compare the attempt.
    SettleIgnoresAttempt,
    /// `settle` does not compare the owner.
    SettleIgnoresOwner,
    /// `settle` does not look whether the task runs.
    SettleIgnoresState,
    /// `claim` does not count the attempt.
    ClaimKeepsAttempt,
    /// `claim` serves names that have no beat.
    ClaimServesStrangers,
    /// `takeover` does not compare the beat that the caller saw.
    TakeoverIgnoresSeenBeat,
    /// Others are judged although the own beats had a gap.
    JudgedDespiteOwnGap,
    /// Others are judged by the time that Redis has measured since their last beat.
    JudgedByRedisClock,
    /// A task is taken back when it has run for long, whoever runs it.
    JudgedByIdleTime,
    /// `beat` does not hand out what was claimed and is not known.
    BeatHidesLostClaims,
    /// `beat` does not name what is not the replica's own any more.
    BeatHidesGone,
    /// An attempt that is held already is started once more when it arrives again.
    EnteredTwice,
    /// A replica keeps its name although Redis has lost what it saw.
    NameKeptAfterLoss,
    /// Nobody takes over.
    NobodyTakesOver,
}

impl Broken {
    pub(crate) const ALL: [Self; 14] = [
        Self::SettleIgnoresAttempt,
        Self::SettleIgnoresOwner,
        Self::SettleIgnoresState,
        Self::ClaimKeepsAttempt,
        Self::ClaimServesStrangers,
        Self::TakeoverIgnoresSeenBeat,
        Self::JudgedDespiteOwnGap,
        Self::JudgedByRedisClock,
        Self::JudgedByIdleTime,
        Self::BeatHidesLostClaims,
        Self::BeatHidesGone,
        Self::EnteredTwice,
        Self::NameKeptAfterLoss,
        Self::NobodyTakesOver,
    ];
}
