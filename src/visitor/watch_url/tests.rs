use serde_json::json;

use super::*;

fn good() -> Value {
    json!({
        "licenseToken": "license",
        "agent": {"id": "agent-7", "name": "Ada"},
        "branding": {"naked": false, "on_end_url": null, "retry_url": "https://example.com/again"},
        "permissions": {"allow_click": false},
        "metadata": {"ticket": 4711, "vip": true, "source": "crm"},
    })
}

fn parse(body: &Value) -> Result<WatchRequest, BodyError> {
    WatchRequest::parse(body.to_string().as_bytes(), license_is_not_empty)
}

#[test]
fn a_whole_body_passes_with_the_defaults_of_the_contract() {
    let request = parse(&good()).unwrap();
    assert_eq!(request.agent.name, "Ada");
    assert_eq!(request.branding.naked, Naked::No);
    assert!(!request.permissions.allow_click);
    assert!(request.permissions.allow_type);
    assert!(!request.permissions.allow_console);
}

#[test]
fn every_field_is_checked_and_named() {
    let long = "x".repeat(MAX_NAME + 1);
    let refused = [
        ("/licenseToken", json!(null), "licenseToken"),
        ("/licenseToken", json!(" "), "licenseToken"),
        ("/licenseToken", json!(7), "licenseToken"),
        ("/agent", json!("Ada"), "agent"),
        ("/agent", json!(null), "agent"),
        ("/agent/id", json!(7), "agent.id"),
        ("/agent/id", json!(""), "agent.id"),
        ("/agent/name", json!(null), "agent.name"),
        ("/agent/name", json!(long), "agent.name"),
        ("/branding", json!([]), "branding"),
        ("/branding/naked", json!("true"), "branding.naked"),
        ("/branding/naked", json!(null), "branding.naked"),
        ("/branding/naked", json!(1), "branding.naked"),
        (
            "/branding/on_end_url",
            json!("javascript:alert(1)"),
            "branding.on_end_url",
        ),
        (
            "/branding/on_end_url",
            json!("/path"),
            "branding.on_end_url",
        ),
        (
            "/branding/on_end_url",
            json!("https://"),
            "branding.on_end_url",
        ),
        ("/branding/retry_url", json!(false), "branding.retry_url"),
        (
            "/branding/retry_url",
            json!("ftp://example.com"),
            "branding.retry_url",
        ),
        ("/permissions", json!(true), "permissions"),
        (
            "/permissions/allow_click",
            json!("true"),
            "permissions.allow_click",
        ),
        (
            "/permissions/allow_click",
            json!(null),
            "permissions.allow_click",
        ),
        ("/metadata", json!("x"), "metadata"),
        ("/metadata/ticket", json!({}), "metadata.ticket"),
        ("/metadata/ticket", json!(null), "metadata.ticket"),
    ];
    for (place, value, expected) in refused {
        let mut body = good();
        *body.pointer_mut(place).unwrap() = value.clone();
        match parse(&body) {
            Err(BodyError::Field { field, message }) => {
                assert_eq!(field, expected, "{place} = {value}");
                assert!(!message.is_empty());
            }
            other => panic!("{place} = {value}: {other:?}"),
        }
    }
    for name in [
        "allow_agent_redirect",
        "allow_audio",
        "allow_click",
        "allow_console",
        "allow_draw",
        "allow_scroll",
        "allow_type",
    ] {
        let mut body = good();
        body["permissions"][name] = json!(0);
        let field = format!("permissions.{name}");
        assert!(matches!(parse(&body), Err(BodyError::Field { field: f, .. }) if f == field));
    }
}

#[test]
fn required_fields_left_out_are_named() {
    for (key, inner, field) in [
        ("licenseToken", None, "licenseToken"),
        ("agent", None, "agent"),
        ("agent", Some("id"), "agent.id"),
        ("agent", Some("name"), "agent.name"),
    ] {
        let mut body = good();
        match inner {
            Some(inner) => body[key].as_object_mut().unwrap().remove(inner),
            None => body.as_object_mut().unwrap().remove(key),
        };
        assert!(matches!(parse(&body), Err(BodyError::Field { field: f, .. }) if f == field));
    }
}

#[test]
fn what_may_be_left_out_or_is_unknown_does_no_harm() {
    let mut body = json!({"licenseToken": "l", "agent": {"id": "1", "name": "A", "x": 1}});
    assert!(parse(&body).is_ok());
    body["webhook_url"] = json!("https://example.com");
    body["branding"] = json!(null);
    body["permissions"] = json!({"allow_confetti": "yes"});
    assert!(parse(&body).is_ok());
}

#[test]
fn page_only_and_true_are_told_apart() {
    for (given, expected) in [
        (json!(true), Naked::Logo),
        (json!("page_only"), Naked::PageOnly),
    ] {
        let mut body = good();
        body["branding"]["naked"] = given;
        assert_eq!(parse(&body).unwrap().branding.naked, expected);
    }
}

#[test]
fn bad_json_is_placed_and_never_repeated() {
    let body = b"{\n  \"licenseToken\": \"s3cret\",\n  \"branding\": {\"naked\": true,}\n}";
    let error = WatchRequest::parse(body, license_is_not_empty).unwrap_err();
    let BodyError::Json {
        line,
        column,
        message,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((line, column), (3, 30));
    assert!(!message.contains("s3cret"));
    for not_an_object in ["", "[]", "3", "null", "\"x\"", "{}}"] {
        assert!(WatchRequest::parse(not_an_object.as_bytes(), license_is_not_empty).is_err());
    }
}
