//! Whether a search is one for a lookup code (contract section 2): four digits, read over the phone,
//! and few enough to be tried out one after the other.

/// Whether any parameter of `query` has a word of four digits. Which one the backend looks at, and how
/// it takes several, is not documented: so any of them counts.
pub fn searches_code(query: Option<&str>) -> bool {
    let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    parameters.into_iter().any(|(_, value)| {
        value
            .split_whitespace()
            .any(|word| word.len() == 4 && word.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::searches_code;

    #[test]
    fn four_digits_are_a_code_wherever_they_stand() {
        for code in [
            "q=1234",
            "q=%31234",
            "q=+1234",
            "q=%201234%20",
            "q=online%201234",
            "a=b&q=1234",
            "q=x&q=1234",
            "Q=1234",
            "q=1234&max_results=5",
        ] {
            assert!(searches_code(Some(code)), "{code}");
        }
        for other in [
            "",
            "q=",
            "q=12345",
            "q=123",
            "q=12a4",
            "q=id:1234",
            "1234",
            "q=%2312",
        ] {
            assert!(!searches_code(Some(other)), "{other}");
        }
        assert!(!searches_code(None));
    }
}
