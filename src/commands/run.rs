//! `run`: the gateway.

use std::io::IsTerminal;

use super::Wrong;
use crate::config::{Config, ConfigError, Source};
use crate::process::{self, Bound, Handed};
use crate::snapshot::{self, Snapshot};

pub(super) fn run(source: impl FnOnce() -> Result<Source, ConfigError>) -> Result<(), Wrong> {
    // Before anything else is opened.
    let mut handed = Handed::take()?;
    let done = serve(source, &mut handed);
    if let Err(Wrong(why)) = &done {
        handed.failed(why);
    }
    done
}

fn serve(
    source: impl FnOnce() -> Result<Source, ConfigError>,
    handed: &mut Handed,
) -> Result<(), Wrong> {
    process::run(source()?, handed, |bound, config, snapshot| {
        // A person who tries it gets told what to do next; a service has its log.
        if snapshot::uses_built_in(config) || std::io::stderr().is_terminal() {
            eprint!("{}", welcome(config, bound, snapshot));
        }
    })?;
    Ok(())
}

/// Where everything is, and a line to copy for each API call.
fn welcome(config: &Config, bound: Bound, snapshot: &Snapshot) -> String {
    let base = snapshot.endpoint.url();
    let api = format!("{}{}", base.trim_end_matches('/'), config.api.path);
    let trust = match &config.tls.certificate {
        Some(file) if config.tls.development => format!(" --cacert {}", file.display()),
        _ => String::new(),
    };
    let backend = if snapshot::uses_built_in(config) {
        format!(
            "built-in visitor backend on http://{}",
            config.visitor.listen
        )
    } else {
        format!("http://{}", snapshot.upstream.authority)
    };
    let curl = format!("curl{trust} -H \"Authorization: $REST_KEY\"");
    let api_state = if snapshot.keys.is_empty() {
        "closed: set REST_KEY to open it"
    } else {
        "open to who sends the key"
    };
    let mut text = format!(
        "\nCobrowse Gateway {version}\n\n  public   {base}  (listening on {listen})\n  backend  {backend}\n  API      {api}  ({api_state})\n  admin    http://{admin}/  (live page; livez, readyz, startupz, metrics)\n",
        version = env!("CARGO_PKG_VERSION"),
        listen = bound.public,
        admin = bound.admin,
    );
    if !snapshot.keys.is_empty() {
        text += &format!(
            r#"
Try it (with REST_KEY set in that shell, too):

  {curl} {api}/visitors/list/latest
  {curl} '{api}/visitors/list/search?q=online'
  ID=$({curl} -s {api}/visitors/list/latest | grep -o '"short_id":"[^"]*' | head -1 | cut -d'"' -f4)
  {curl} {api}/visitors/$ID
  {curl} -d '{{"licenseToken":"any","agent":{{"id":"1","name":"Ada"}}}}' {api}/visitors/$ID/watch_url

Open {base} in a browser to become a visitor.
"#
        );
    }
    text.push('\n');
    text
}
