//! `config`: what is in force, what could be written, and what a reload would change.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Wrong, say};
use crate::config::{Applies, Config, ConfigError, Entry, Key, Source, diff, keys, schema};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print what is in force, as a file; keys of the API are not shown.
    Print {
        /// Say where each value comes from: default, file and line, or variable.
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON Schema of the file.
    Schema,
    /// Say what a reload to NEW, in the place of the file, would change, and from when on it would
    /// hold. Exit code 0 whether or not anything would; `check --config NEW` says whether NEW and
    /// the files it names are good.
    Diff {
        /// The file to compare with.
        #[arg(value_name = "NEW")]
        new: PathBuf,
    },
    /// Print the table of docs/configuration.md.
    #[command(hide = true)]
    Docs,
}

pub(super) fn config(
    arguments: &Arguments,
    source: impl FnOnce() -> Result<Source, ConfigError>,
) -> Result<(), Wrong> {
    say(&match &arguments.what {
        What::Print { origin } => written(&source()?.read()?, *origin),
        What::Schema => serde_json::to_string_pretty(&schema())? + "\n",
        What::Diff { new } => changes(&source()?, new)?,
        What::Docs => docs(&keys()),
    })
}

/// `config` as a file that says the same. Secrets are comments: `***` must not become a key.
fn written(config: &Config, with_origin: bool) -> String {
    let entries = config.entries();
    let lines = entries.iter().map(|entry| line(entry, with_origin));
    let lines: Vec<_> = entries.iter().zip(lines).collect();
    let mut text = String::new();
    // A table ends where another one begins, so that what lies deeper comes after the rest.
    let mut tables: Vec<&str> = Vec::new();
    for (entry, _) in &lines {
        let table = above(&entry.key);
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    for table in tables {
        let mut own = lines
            .iter()
            .filter(|(entry, _)| above(&entry.key) == table)
            .peekable();
        if let Some((entry, _)) = own.peek() {
            text += &format!(
                "{}{}\n",
                if text.is_empty() { "" } else { "\n" },
                entry.table
            );
        }
        for (_, line) in own {
            text += &format!("{line}\n");
        }
    }
    text
}

fn line(entry: &Entry, with_origin: bool) -> String {
    let name = entry.key[above(&entry.key).len()..].trim_start_matches('.');
    let line = match &entry.value {
        Some(value) if entry.secret => format!("# {name} = {value}"),
        Some(value) => format!("{name} = {value}"),
        None => format!("# {name} is not set"),
    };
    if with_origin {
        format!("{line:<48}  # {}", entry.origin)
    } else {
        line
    }
}

/// The table that a key stands in.
fn above(key: &str) -> &str {
    // The last name may be in quotes, with dots in it.
    let end = match key.strip_suffix('"') {
        Some(quoted) => quoted.rfind(".\""),
        None => key.rfind('.'),
    };
    &key[..end.unwrap_or(0)]
}

fn changes(source: &Source, new: &Path) -> Result<String, Wrong> {
    let old = source.read()?;
    // Read where it lies, so that mistakes are told of it, and then where it would lie: that is
    // what the paths in it mean.
    Config::load(Some(new), &source.environment)?;
    let place = source.file.as_deref().unwrap_or(new);
    let text = std::fs::read_to_string(new)?;
    let changes = diff(&old, &Config::read(place, &text, &source.environment)?);
    if changes.is_empty() {
        return Ok("no change\n".into());
    }
    let mut said = String::new();
    for change in &changes {
        said += &format!("{change}\n");
    }
    let restart = changes
        .iter()
        .filter(|c| c.applies == Applies::Restart)
        .count();
    said += &match restart {
        0 => format!(
            "\n{}, none needs a restart\n",
            count(changes.len(), "change")
        ),
        _ => format!(
            "\n{}, {} a restart\n",
            count(changes.len(), "change"),
            match restart {
                1 => "1 needs".to_owned(),
                n => format!("{n} need"),
            }
        ),
    };
    Ok(said)
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// docs/configuration.md
fn docs(keys: &[Key]) -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Every key of `gateway.toml`, made from the program by `cargo test`; `cobrowse-gateway config schema`\n\
         prints the same for editors and validators. Any key can be set as `GATEWAY__SECTION__KEY`, too.\n\n\
         Shapes: a *time* is a whole number with a unit, `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"1h\"`, `\"2d\"`; a *size*\n\
         `\"512B\"`, `\"64KiB\"`, `\"1MiB\"`, `\"1GiB\"`; a *rate* a count and a time, `\"100/60s\"`; a *network* an address and\n\
         a prefix, `\"10.0.0.0/8\"`; a *file* a path, relative to where the file lies; a *secret* is never shown.\n\n\
         From when on a change holds after a reload: *live*, the next request, also of an open connection;\n\
         *new-connections*, connections, handshakes and tunnels that begin then; *restart*, the next start of\n\
         the process.\n",
    );
    let mut section = "";
    for key in keys {
        let at = key.name.split('.').next().unwrap_or_default();
        if at != section {
            section = at;
            text += &format!(
                "\n## [{section}]\n\n| Key | Shape | Default | Holds | Meaning |\n|---|---|---|---|---|\n"
            );
        }
        let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
        let name = key.name[section.len()..].trim_start_matches('.');
        let default = key.default.as_deref().map_or_else(|| "none".into(), code);
        text += &format!(
            "| {} | {} | {default} | {} | {} |\n",
            code(name),
            key.shape.replace('|', "\\|"),
            key.applies,
            key.meaning.replace('|', "\\|"),
        );
    }
    text
}
