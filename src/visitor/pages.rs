//! The visitor's page and the agent's screen.
//!
//! All links are relative, so the pages work under any public path. None forbids being framed:
//! agents' software shows the screen in an iframe.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use serde::Deserialize;
use serde_json::json;

use super::App;
use super::grant::{Naked, WatchGrant};
use super::object::Visitor;
use super::token::Purpose;

/// All that a bad screen URL is answered.
pub(super) const NOT_VALID: &str = "this link is not valid or has expired";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Only our own files, sockets to anywhere (older Safari does not count wss as `'self'`), and no
/// `frame-ancestors`.
const SCREEN_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'";

/// The pages below `mount` ("" or e.g. `/up/tree`).
pub(super) fn routes(mount: &str) -> Router<Arc<App>> {
    let at = |path: &str| format!("{mount}{path}");
    let mut routes = Router::new()
        .route(&at("/"), file(HTML, include_str!("pages/visitor.html")))
        .route(
            &at("/assets/visitor.js"),
            file(SCRIPT, include_str!("pages/visitor.js")),
        )
        .route(
            &at("/assets/screen.js"),
            file(SCRIPT, include_str!("pages/screen.js")),
        )
        .route(
            &at("/assets/style.css"),
            file(STYLE, include_str!("pages/style.css")),
        )
        .route(&at("/screen"), get(screen));
    if let Some((_, last)) = mount.rsplit_once('/') {
        // Relative links need the slash; a relative Location survives any base path in front.
        let target = format!("{last}/");
        let redirect = move || async { (StatusCode::PERMANENT_REDIRECT, [(LOCATION, target)]) };
        routes = routes.route(mount, get(redirect));
    }
    routes
}

fn file(kind: &'static str, text: &'static str) -> axum::routing::MethodRouter<Arc<App>> {
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    get(move || async move { (headers, text) })
}

/// The query of `/screen` and its socket.
#[derive(Deserialize)]
pub(super) struct ScreenParameters {
    #[serde(default)]
    id: String,
    #[serde(default)]
    token: String,
}

/// The grant of a screen URL whose token is ours, not expired and for this very visitor.
pub(super) fn grant(app: &App, parameters: &ScreenParameters) -> Option<WatchGrant> {
    let now = SystemTime::now();
    let grant: WatchGrant = app.signer.open(Purpose::Watch, &parameters.token, now)?;
    (grant.short_id == parameters.id).then_some(grant)
}

async fn screen(
    State(app): State<Arc<App>>,
    parameters: Result<Query<ScreenParameters>, QueryRejection>,
) -> Response {
    let granted = parameters.ok().and_then(|Query(parameters)| {
        let grant = grant(&app, &parameters)?;
        let visitor = app.store.get(&grant.short_id)?;
        Some((grant, visitor))
    });
    let (status, page) = match granted {
        Some((grant, visitor)) => (StatusCode::OK, screen_page(&grant, &visitor)),
        None => (
            StatusCode::FORBIDDEN,
            include_str!("pages/refused.html").to_owned(),
        ),
    };
    let headers = [
        (CONTENT_TYPE, HTML),
        (CACHE_CONTROL, "no-store"),
        // The token in the URL is all it takes to watch.
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, SCREEN_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, page).into_response()
}

fn screen_page(grant: &WatchGrant, visitor: &Visitor) -> String {
    let naked = grant.branding.naked;
    let header = if naked == Naked::No {
        include_str!("pages/screen_header.html")
    } else {
        ""
    };
    let panel = if naked == Naked::PageOnly {
        String::new()
    } else {
        let facts = facts(visitor);
        let permissions = permissions(grant);
        let agent = escape(&grant.agent.name);
        fill(
            include_str!("pages/screen_panel.html"),
            &[
                ("agent", &agent),
                ("facts", &facts),
                ("permissions", &permissions),
            ],
        )
    };
    let config = json!({
        "page_only": naked == Naked::PageOnly,
        "on_end_url": grant.branding.on_end_url,
        "retry_url": grant.branding.retry_url,
        "permissions": grant.permissions,
        "visitor": visitor,
    });
    // Inside a script element only "</" could end it.
    let config = config.to_string().replace('<', "\\u003c");
    fill(
        include_str!("pages/screen.html"),
        &[("header", header), ("panel", &panel), ("config", &config)],
    )
}

/// The rows about a visitor; the script keeps them current by their `data-fact`.
fn facts(visitor: &Visitor) -> String {
    let known = |text: &Option<String>| text.clone().unwrap_or_default();
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let rows = [
        ("short_id", "Short id", visitor.short_id.clone()),
        ("is_online", "Online", yes_no(visitor.is_online)),
        ("identities", "Known as", visitor.identities.join(", ")),
        ("email", "E-mail", known(&visitor.email)),
        ("unique_id", "Customer id", known(&visitor.unique_id)),
        ("tags", "Tags", visitor.tags.join(" ")),
        ("last_url", "Page", known(&visitor.last_url)),
        ("browser_name", "Browser", known(&visitor.browser_name)),
        ("device_type", "Device", known(&visitor.device_type)),
        ("location_city", "City", known(&visitor.location_city)),
        ("lookup_code", "Lookup code", known(&visitor.lookup_code)),
    ];
    rows.iter()
        .map(|(key, label, value)| {
            let value = escape(value);
            format!("<dt>{label}</dt><dd data-fact=\"{key}\">{value}</dd>\n")
        })
        .collect()
}

fn permissions(grant: &WatchGrant) -> String {
    let given = grant.permissions;
    [
        ("redirect", given.allow_agent_redirect),
        ("audio", given.allow_audio),
        ("click", given.allow_click),
        ("console", given.allow_console),
        ("draw", given.allow_draw),
        ("scroll", given.allow_scroll),
        ("type", given.allow_type),
    ]
    .map(|(name, allowed)| {
        let class = if allowed { "on" } else { "off" };
        format!("<li class=\"{class}\">{name}: {class}</li>\n")
    })
    .concat()
}

/// Replaces each `{{name}}` once and from left to right: what was filled in is never looked at
/// again, whatever it holds. Values must be HTML already.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut page = String::with_capacity(template.len() + 1024);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        if let Some((_, value)) = values.iter().find(|(key, _)| *key == name) {
            page.push_str(value);
        }
        rest = after;
    }
    page.push_str(rest);
    page
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::super::grant::{Agent, Branding, Permissions};
    use super::*;

    const EVIL: &str = "</script><script>alert('1')</script>{{config}}";

    fn page(naked: Naked) -> String {
        let nowhere = [192, 0, 2, 1].into();
        let mut visitor = Visitor::new("ABCD1234".into(), nowhere, OffsetDateTime::UNIX_EPOCH);
        visitor.identities = vec![EVIL.into()];
        visitor.last_url = Some("https://example.com/\"onload=x".into());
        let grant = WatchGrant {
            short_id: "ABCD1234".into(),
            agent: Agent {
                id: "1".into(),
                name: EVIL.into(),
            },
            permissions: Permissions::default(),
            branding: Branding {
                naked,
                ..Branding::default()
            },
            nonce: String::new(),
        };
        screen_page(&grant, &visitor)
    }

    #[test]
    fn nothing_a_visitor_or_agent_is_called_becomes_part_of_the_page() {
        for naked in [Naked::No, Naked::Logo, Naked::PageOnly] {
            let page = page(naked);
            assert!(!page.contains("<script>alert"), "{page}");
            assert!(!page.contains("/\"onload=x"), "{page}");
            assert_eq!(page.matches("</script>").count(), 2, "{page}");
        }
    }

    #[test]
    fn naked_screens_have_no_logo_and_page_only_ones_no_panel() {
        let (full, naked, bare) = (page(Naked::No), page(Naked::Logo), page(Naked::PageOnly));
        assert!(full.contains("<header") && full.contains("<aside"));
        assert!(!naked.contains("<header") && naked.contains("<aside"));
        assert!(!bare.contains("<header") && !bare.contains("<aside"));
        for page in [full, naked, bare] {
            assert!(page.contains("id=\"mirror\""));
        }
    }
}
