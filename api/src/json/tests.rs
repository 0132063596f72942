use super::*;

fn refused(body: &[u8]) -> ApiError {
    Object::parse(body).unwrap_err()
}

#[test]
fn members_are_asked_for_by_name_and_type() {
    let body = br#"{"token":"t\u0041","n":1,"x":null,"list":[1,{"a":"b"}],"b":true,"u":"ignored"}"#;
    let object = Object::parse(body).unwrap();
    assert_eq!(object.text("token", 9).unwrap(), "tA");
    assert_eq!(object.optional_text("x", 9).unwrap(), None);
    assert!(!object.has("x") && object.has("list") && !object.has("none"));
    for (name, found) in [("n", "a number"), ("list", "an array"), ("b", "a boolean")] {
        let fault = MemberFault::Type {
            expected: "a string",
            found,
        };
        assert_eq!(
            object.text(name, 9).unwrap_err(),
            ApiError::member(name, fault)
        );
    }
    let missing = object.text("none", 9).unwrap_err();
    assert_eq!(missing.status(), 422);
    assert_eq!(missing.to_string(), "member `none`: is missing");
    assert_eq!(object.text("u", 6).unwrap_err().status(), 422);
    assert!(object.text("u", 7).is_ok());
}

#[test]
fn arrays_of_texts_numbers_and_truth_values_are_read() {
    let body =
        br#"{"t":["a","b\u0041"],"e":[],"m":["a",1],"n":7,"minus":-1,"f":false,"x":null,"s":"1"}"#;
    let object = Object::parse(body).unwrap();
    let texts = object.optional_texts("t", 2).unwrap().unwrap();
    assert_eq!(texts, ["a", "bA"]);
    assert_eq!(
        object.optional_texts("e", 0).unwrap().map(<[_]>::len),
        Some(0)
    );
    assert_eq!(object.optional_number("n", 0..=7).unwrap(), Some(7));
    assert_eq!(object.optional_flag("f").unwrap(), Some(false));
    for missing in ["x", "none"] {
        assert_eq!(object.optional_texts(missing, 9).unwrap(), None);
        assert_eq!(object.optional_number(missing, 0..=7).unwrap(), None);
        assert_eq!(object.optional_flag(missing).unwrap(), None);
    }
    assert!(object.optional_texts("t", 1).is_err());
    for (name, kind) in [
        ("t", "an array"),
        ("m", "an array"),
        ("n", "a number"),
        ("minus", "a number"),
        ("f", "a boolean"),
        ("s", "a string"),
    ] {
        let refused = |expected: &str| format!("member `{name}`: must be {expected}, found {kind}");
        if name != "t" {
            let error = object.optional_texts(name, 9).unwrap_err();
            assert_eq!(error.to_string(), refused("an array of strings"));
        }
        if name != "n" {
            let error = object.optional_number(name, 0..=7).unwrap_err();
            assert_eq!(error.to_string(), refused("a natural number"));
        }
        if name != "f" {
            let error = object.optional_flag(name).unwrap_err();
            assert_eq!(error.to_string(), refused("a boolean"));
        }
    }
}

#[test]
fn x01_of_the_texts_of_an_array_no_more_are_kept_than_anybody_asks_for() {
    let array = |count: usize| {
        let texts = vec!["\"\""; count].join(",");
        format!("{{\"t\":[{texts}],\"o\":{{\"deeper\":[[{texts}]]}}}}")
    };
    let kept = |object: &Object<'_>| match object.member("t") {
        Some(Member::Texts(texts)) => (texts.kept.len(), texts.kept.capacity(), texts.count),
        other => panic!("{other:?}"),
    };
    let long = array(1_000_000);
    let object = Object::parse(long.as_bytes()).unwrap();
    let (length, capacity, count) = kept(&object);
    assert_eq!((length, count), (JSON_TEXTS_MAX, 1_000_000));
    assert!(capacity <= 2 * JSON_TEXTS_MAX, "{capacity}");
    for max in [0, 16, JSON_TEXTS_MAX, 1_000_000, usize::MAX] {
        let error = object.optional_texts("t", max).unwrap_err();
        let shown = max.min(JSON_TEXTS_MAX);
        let expected = format!("member `t`: is longer than {shown} elements");
        assert_eq!(error.to_string(), expected);
    }
    // At the limit all of them are there, and one more is refused.
    let whole = array(JSON_TEXTS_MAX);
    let object = Object::parse(whole.as_bytes()).unwrap();
    let texts = object.optional_texts("t", JSON_TEXTS_MAX).unwrap();
    assert_eq!(texts.map(<[_]>::len), Some(JSON_TEXTS_MAX));
    assert!(object.optional_texts("t", JSON_TEXTS_MAX - 1).is_err());
    let more = array(JSON_TEXTS_MAX + 1);
    let object = Object::parse(more.as_bytes()).unwrap();
    assert!(object.optional_texts("t", usize::MAX).is_err());
}

#[test]
fn null_is_refused_where_it_would_be_passed_over() {
    let object = Object::parse(br#"{"a":null,"b":false,"c":"x"}"#).unwrap();
    assert_eq!(object.refuse_null(&["b", "c", "d"]), Ok(()));
    let refused = object.refuse_null(&["b", "a"]).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "member `a`: must be a value, found null"
    );
    assert_eq!(refused.status(), 422);
}

#[test]
fn bytes_are_padded_base64_and_bounded() {
    let object = Object::parse(br#"{"a":"AQID","b":"AQI","c":"AQID_-","d":"AQ=="}"#).unwrap();
    assert_eq!(object.optional_bytes("a", 3).unwrap(), Some(vec![1, 2, 3]));
    assert!(object.optional_bytes("a", 2).is_err());
    assert!(object.optional_bytes("b", 9).is_err());
    assert!(object.optional_bytes("c", 9).is_err());
    assert_eq!(object.optional_bytes("d", 1).unwrap(), Some(vec![1]));
    assert_eq!(object.optional_bytes("e", 1).unwrap(), None);
}

#[test]
fn x01_hostile_json_is_refused_with_400() {
    let deep_array = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let deep = [b"{\"a\":", &deep_array[..], b"}"].concat();
    let deep_object = [&b"{\"a\":".repeat(100_000)[..], b"1"].concat();
    let many = format!(
        "{{{}}}",
        (0..=JSON_MEMBERS_MAX)
            .map(|n| format!("\"m{n}\":0"))
            .collect::<Vec<_>>()
            .join(",")
    );
    let cases: [(&[u8], Option<JsonFault>); 14] = [
        (br#"{"a":1,"a":2}"#, Some(JsonFault::Duplicate)),
        (br#"{"a":1,"\u0061":2}"#, Some(JsonFault::Duplicate)),
        (br#"{"o":{"a":1,"a":2}}"#, Some(JsonFault::Duplicate)),
        (br#"{"o":[{"a":1,"a":2}]}"#, Some(JsonFault::Duplicate)),
        (&deep, Some(JsonFault::Depth)),
        (&deep_object, Some(JsonFault::Depth)),
        (many.as_bytes(), Some(JsonFault::Members)),
        (b"\xef\xbb\xbf{}", None),
        (b"{\"a\":\"\xff\"}", None),
        (br#"{"a":"\ud800"}"#, None),
        (b"{} {}", None),
        (b"", None),
        (br#"{"a":NaN}"#, None),
        (br#"{"a":1e999}"#, None),
    ];
    for (body, fault) in cases {
        let error = refused(body);
        assert_eq!(error.status(), 400, "{error}");
        if let Some(fault) = fault {
            assert_eq!(error, ApiError::Json(fault));
        }
    }
}

#[test]
fn x01_another_value_than_an_object_is_422() {
    for body in [&b"[]"[..], b"null", b"1", b"\"a\"", b"true"] {
        assert_eq!(refused(body), ApiError::NotAnObject);
        assert_eq!(refused(body).status(), 422);
    }
}

#[test]
fn x01_nesting_at_the_limit_is_read() {
    let depth = JSON_DEPTH_MAX - 1;
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(Object::parse(nested(depth).as_bytes()).is_ok());
    assert_eq!(
        refused(nested(depth + 1).as_bytes()),
        ApiError::Json(JsonFault::Depth)
    );
}

const FORM: Form = Form {
    members: &["name", "count", "flag"],
    document: Some("policy"),
};

#[test]
fn an_operators_request_holds_nothing_but_what_its_form_has() {
    let body = br#"{"name":"n","count":3,"flag":true,"policy": { "a" : [1] } }"#;
    let object = Object::of_form(body, &FORM).unwrap();
    assert_eq!(object.text("name", 10), Ok("n"));
    assert_eq!(object.optional_number("count", 1..=3), Ok(Some(3)));
    assert_eq!(object.optional_flag("flag"), Ok(Some(true)));
    // The text of a document, byte for byte.
    let document = object.optional_document("policy");
    assert_eq!(document, Some(Some(r#"{ "a" : [1] }"#)));
    let empty = Object::of_form(b"", &FORM).unwrap();
    assert_eq!(empty.optional_text("name", 10), Ok(None));
    assert_eq!(empty.optional_document("policy"), None);
    let none = Object::of_whole_form(b"", &FORM).unwrap_err();
    assert_eq!(none, ApiError::NotAnObject);
    assert!(Object::of_whole_form(b"{}", &FORM).is_ok());
    let null = Object::of_form(br#"{"policy":null}"#, &FORM).unwrap();
    assert_eq!(null.optional_document("policy"), Some(None));
    for (body, shown) in [
        (&br#"{"nam":1}"#[..], "`nam`"),
        (br#"{"<script>":1}"#, "(no name that can be shown)"),
        (br#"{"":1}"#, "(no name that can be shown)"),
    ] {
        let refused = Object::of_form(body, &FORM).unwrap_err();
        let expected = format!("the body has the unknown member {shown}");
        assert_eq!(refused.to_string(), expected);
        assert_eq!(refused.code(), "request.unknown_member");
    }
}

#[test]
fn x01_a_document_is_one_value_and_its_members_are_another_readers() {
    for body in [
        &br#"{"policy":{}"#[..],
        br#"{"policy":{]}"#,
        b"{\"policy\":\"\xff\"}",
        br#"{"policy":{},"policy":{}}"#,
        br#"{"policy":}"#,
    ] {
        let refused = Object::of_form(body, &FORM);
        assert!(matches!(refused, Err(ApiError::Json(_))), "{refused:?}");
    }
    // Deep, twice, many: its own reader decides.
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let body = format!("{{\"policy\":{deep}}}");
    let object = Object::of_form(body.as_bytes(), &FORM).unwrap();
    assert_eq!(
        object.optional_document("policy"),
        Some(Some(deep.as_str()))
    );
}

#[test]
fn members_of_another_type_or_range_are_named() {
    for (body, expected) in [
        (
            r#"{"count":"3"}"#,
            "member `count`: must be a natural number, found a string",
        ),
        (
            r#"{"count":-3}"#,
            "member `count`: must be a natural number, found a number",
        ),
        (
            r#"{"count":1.5}"#,
            "member `count`: must be a natural number, found a number",
        ),
        (r#"{"count":4}"#, "member `count`: must be 1 to 3"),
        (r#"{"count":0}"#, "member `count`: must be 1 to 3"),
    ] {
        let object = Object::of_form(body.as_bytes(), &FORM).unwrap();
        let refused = object.optional_number("count", 1..=3).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    for (value, found) in [("1", "a number"), ("\"true\"", "a string")] {
        let body = format!("{{\"flag\":{value}}}");
        let object = Object::of_form(body.as_bytes(), &FORM).unwrap();
        let refused = object.optional_flag("flag").unwrap_err();
        let expected = format!("member `flag`: must be a boolean, found {found}");
        assert_eq!(refused.to_string(), expected);
    }
}
