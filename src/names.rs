//! Closed sets of words that logs and metrics share. Nothing a client sends can add one.

use http::Method;

/// What a request is for, by its path. The word is the `route` label and log field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// `GET /api/visitors/list/latest`
    VisitorsLatest,
    /// `GET /api/visitors/list/search`
    VisitorsSearch,
    /// `GET /api/visitors/{id}`
    Visitor,
    /// `POST /api/visitors/{id}/watch_url`
    WatchUrl,
    /// Anything else that a backend could take for its API.
    ApiOther,
    /// The agents' screen page and what lies below it.
    Screen,
    /// Any other path under the base: pages, scripts, visitors' sockets.
    Page,
    /// Refused before it was known, or outside the base path.
    None,
}

impl Route {
    /// Every route, in the order of [`Self::index`].
    pub const ALL: [Self; 8] = [
        Self::VisitorsLatest,
        Self::VisitorsSearch,
        Self::Visitor,
        Self::WatchUrl,
        Self::ApiOther,
        Self::Screen,
        Self::Page,
        Self::None,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VisitorsLatest => "visitors_latest",
            Self::VisitorsSearch => "visitors_search",
            Self::Visitor => "visitor",
            Self::WatchUrl => "watch_url",
            Self::ApiOther => "api_other",
            Self::Screen => "screen",
            Self::Page => "page",
            Self::None => "none",
        }
    }

    /// Its path below the base endpoint, with names for what differs; `None`: it has none.
    pub const fn template(self) -> Option<&'static str> {
        match self {
            Self::VisitorsLatest => Some("/api/visitors/list/latest"),
            Self::VisitorsSearch => Some("/api/visitors/list/search"),
            Self::Visitor => Some("/api/visitors/{id}"),
            Self::WatchUrl => Some("/api/visitors/{id}/watch_url"),
            Self::ApiOther => Some("/api/{other}"),
            Self::Screen => Some("/screen"),
            Self::Page => Some("/{page}"),
            Self::None => None,
        }
    }

    /// Whether it needs a key.
    pub const fn is_api(self) -> bool {
        match self {
            Self::VisitorsLatest
            | Self::VisitorsSearch
            | Self::Visitor
            | Self::WatchUrl
            | Self::ApiOther => true,
            Self::Screen | Self::Page | Self::None => false,
        }
    }

    /// Position in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The methods that have a label of their own; the rest is `OTHER`.
pub const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "OTHER",
];

/// Position of `method` in [`METHODS`].
pub fn method_index(method: &Method) -> usize {
    METHODS
        .iter()
        .position(|m| *m == method.as_str())
        .unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_stands_at_its_index() {
        for (i, route) in Route::ALL.iter().enumerate() {
            assert_eq!(route.index(), i);
        }
    }
}
