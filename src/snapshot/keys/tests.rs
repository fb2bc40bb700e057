use proptest::prelude::*;

use super::*;

struct File(std::path::PathBuf);

impl File {
    fn with(text: &[u8]) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("keys-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn api(&self) -> Api {
        Api {
            keys_file: OrOff::On(self.0.clone()),
            ..Api::default()
        }
    }

    fn names(&self) -> Vec<String> {
        let read = read(&self.api()).unwrap();
        read.keys.names().map(|name| name.to_string()).collect()
    }

    fn error(&self) -> String {
        let why = read(&self.api()).unwrap_err().to_string();
        let place = self.0.display().to_string();
        why.strip_prefix(&place).unwrap_or(&why).to_owned()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn a_keys_file_has_a_name_and_a_value_on_a_line() {
    let file = File::with(
        b"\xef\xbb\xbf# of the back office\r\n\r\n  office :  a key: with # and colon \r\n\t# more\nold:x\nd.1: sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",
    );
    assert_eq!(file.names(), ["office", "old", "d.1"]);
    let Read { keys, notes, .. } = read(&file.api()).unwrap();
    for key in ["a key: with # and colon", "x", "second"] {
        assert!(keys.is_key(key.as_bytes()), "{key}");
    }
    assert!(notes.is_empty(), "{notes:?}");
    for nothing in ["", "\n", "# x: y\n\n", "\u{feff}"] {
        let file = File::with(nothing.as_bytes());
        let Read {
            keys, notes, whole, ..
        } = read(&file.api()).unwrap();
        assert!(keys.is_empty() && whole);
        assert!(
            notes.len() == 1 && notes[0].ends_with("holds no key"),
            "{notes:?}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_gives_no_key_and_is_told_as_missing() {
    let gone = File::with(b"a: x").0.clone();
    let folder = std::env::temp_dir();
    let of = |change: &dyn Fn(&mut Api)| {
        let mut api = Api::default();
        change(&mut api);
        read(&api).unwrap()
    };
    for file in [gone, folder] {
        for read in [
            of(&|api| api.keys_file = OrOff::On(file.clone())),
            of(&|api| api.rest_key = RestKey::File(file.clone())),
            of(&|api| {
                api.rest_key = RestKey::Value(Secret::new("x".into()));
                api.forward_authorization = ForwardAuthorization::Replace;
                api.upstream_key_file = OrOff::On(file.clone());
            }),
        ] {
            assert!(read.keys.is_empty() && !read.whole, "{read:?}");
            assert!(read.notes[0].contains("cannot be read"), "{read:?}");
        }
    }
    // None named is none missing.
    assert!(of(&|_| {}).whole);
}

#[test]
fn a_wrong_line_is_named_and_not_quoted() {
    for (text, error) in [
        ("a: x\ncanary", ":2: expected name: value"),
        (
            "a: x\n\ncanary:",
            ":3: expected a key; an empty one is none",
        ),
        (": canary", ":1: expected a name of 1 to 64"),
        ("ca nary: x", ":1: expected a name of 1 to 64"),
        ("a: canary\u{e9}", ":1: expected visible ASCII"),
        ("a: sha256:canary", ":1: expected sha256: and the 64"),
    ] {
        let why = File::with(text.as_bytes()).error();
        assert!(
            why.starts_with(error) && !why.contains("canary"),
            "{text}: {why}"
        );
    }
    let file = File::with(b"a: x\nb: y\n# c\na: z");
    let first = format!(":4: expected a name that {}:1 has not", file.0.display());
    assert_eq!(file.error(), first);
    let file = File::with(
        b"a: second\nb: sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",
    );
    let first = format!(
        ":2: expected another key than that of {}:1",
        file.0.display()
    );
    assert_eq!(file.error(), first);
    let why = File::with(b"canary: \xff").error();
    assert!(
        why.ends_with("expected UTF-8 text") && !why.contains("canary"),
        "{why}"
    );
}

proptest! {
    #[test]
    fn no_error_quotes_what_a_keys_file_holds(text in "(canary|[a-z]{1,3}|[: #\n\u{1}\u{e9}]|sha256:){0,12}") {
        let file = File::with(text.as_bytes());
        if let Err(why) = read(&file.api()) {
            prop_assert!(!why.to_string().contains("canary"), "{why}");
        }
    }
}
