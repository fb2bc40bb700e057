//! How a tunnel ended, in words.

/// How a tunnel went.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    /// Who ended it.
    pub by: ClosedBy,
    /// With what word.
    pub class: CloseClass,
    /// Whether it was cut at the end of a drain.
    pub cut: bool,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
}

/// Who ended a tunnel: who sent the first Close frame, else whose connection ended first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client closed first.
    Client,
    /// The backend closed first.
    Upstream,
    /// No byte passed for too long.
    Idle,
    /// It was open for too long.
    MaxAge,
    /// The client answered no Ping.
    HalfOpen,
    /// The process ended.
    Drain,
    /// A connection broke.
    Error,
}

impl ClosedBy {
    pub(super) const ALL: [Self; 7] = [
        Self::Client,
        Self::Upstream,
        Self::Idle,
        Self::MaxAge,
        Self::HalfOpen,
        Self::Drain,
        Self::Error,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Idle => "idle",
            Self::MaxAge => "max_age",
            Self::HalfOpen => "half_open",
            Self::Drain => "drain",
            Self::Error => "error",
        }
    }
}

/// What the first Close frame of a tunnel said (RFC 6455 section 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseClass {
    /// There was none.
    None,
    /// 1000
    Normal,
    /// 1001
    GoingAway,
    /// 1012
    Restart,
    /// A Close frame without a code.
    NoStatus,
    /// 1002, 1003, 1007 to 1011, 1013 to 1015
    Error,
    /// 3000 to 4999
    Application,
    /// Codes that have no meaning.
    Other,
    /// There was none, and what was sent were no frames.
    Invalid,
}

impl CloseClass {
    pub(super) const ALL: [Self; 9] = [
        Self::None,
        Self::Normal,
        Self::GoingAway,
        Self::Restart,
        Self::NoStatus,
        Self::Error,
        Self::Application,
        Self::Other,
        Self::Invalid,
    ];

    /// The class of a code; 1005 stands for none.
    pub const fn of(code: u16) -> Self {
        match code {
            1000 => Self::Normal,
            1001 => Self::GoingAway,
            1012 => Self::Restart,
            1005 => Self::NoStatus,
            1002 | 1003 | 1007..=1011 | 1013..=1015 => Self::Error,
            3000..=4999 => Self::Application,
            _ => Self::Other,
        }
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Normal => "normal",
            Self::GoingAway => "going_away",
            Self::Restart => "restart",
            Self::NoStatus => "no_status",
            Self::Error => "error",
            Self::Application => "application",
            Self::Other => "other",
            Self::Invalid => "invalid",
        }
    }
}
