//! What a request says, wherever it stands: in the query, in a form, or in JSON.
//!
//! Where a name stands in several places, JSON comes before the form and the form before the query.
//! What the path says comes before all of them; that is the routes' business.

use axum::extract::Query;
use axum::http::{HeaderMap, Uri, header};

use crate::error::{ApiError, MemberFault};
use crate::json::Object;

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Params<'a> {
    json: Option<Object<'a>>,
    /// Those of the query, and after them those of the form.
    pairs: Vec<(String, String)>,
}

/// What a request says of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given<T> {
    /// Nothing: it stays as it is.
    Absent,
    /// That there is none.
    Null,
    /// This.
    Value(T),
}

impl<T> Given<T> {
    /// What it says in place of what is there.
    pub(super) fn over(self, present: Option<T>) -> Option<T> {
        match self {
            Self::Absent => present,
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }

    /// The value as another one.
    pub(super) fn try_map<U, E>(self, map: impl FnOnce(T) -> Result<U, E>) -> Result<Given<U>, E> {
        Ok(match self {
            Self::Absent => Given::Absent,
            Self::Null => Given::Null,
            Self::Value(value) => Given::Value(map(value)?),
        })
    }
}

impl<'a> Params<'a> {
    /// The parameters of this request. A body of another type says nothing, and so does JSON that is
    /// no object.
    ///
    /// # Errors
    /// [`ApiError`] when query, form or JSON cannot be read.
    pub(super) fn read(uri: &Uri, headers: &HeaderMap, body: &'a [u8]) -> Result<Self, ApiError> {
        let broken = |_| ApiError::BodyBroken;
        let Query(mut pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(broken)?;
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        let kind = kind.to_ascii_lowercase();
        if kind == "application/x-www-form-urlencoded" {
            let text = std::str::from_utf8(body).map_err(|_| ApiError::BodyBroken)?;
            let form = Uri::builder().path_and_query(format!("/?{text}")).build();
            let form = form.map_err(|_| ApiError::BodyBroken)?;
            let Query(form) =
                Query::<Vec<(String, String)>>::try_from_uri(&form).map_err(broken)?;
            pairs.extend(form);
        }
        let is_json = kind == "application/json" || kind.ends_with("+json");
        let json = match is_json.then(|| Object::parse(body)) {
            None | Some(Err(ApiError::NotAnObject)) => None,
            Some(object) => Some(object?),
        };
        Ok(Self { json, pairs })
    }

    /// The text of a parameter.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is no text, or has more than `max` characters.
    pub(super) fn text(&self, name: &'static str, max: usize) -> Result<Given<&str>, ApiError> {
        if let Some(json) = self.json.as_ref().filter(|json| json.names(name)) {
            let text = json.optional_text(name, max)?;
            return Ok(text.map_or(Given::Null, Given::Value));
        }
        match self.pair(name) {
            Some(text) if text.chars().nth(max).is_some() => {
                let unit = "characters";
                Err(ApiError::member(name, MemberFault::TooLong { max, unit }))
            }
            Some(text) => Ok(Given::Value(text)),
            None => Ok(Given::Absent),
        }
    }

    /// The port number of a parameter, which may be a text.
    ///
    /// # Errors
    /// [`ApiError::Member`] when it is none.
    pub(super) fn port(&self, name: &'static str) -> Result<Given<u16>, ApiError> {
        let json = self.json.as_ref();
        if let Some(Ok(Some(port))) = json.map(|it| it.optional_number(name, 0..=65_535)) {
            let port = u16::try_from(port).unwrap_or(0);
            return Ok(Given::Value(port));
        }
        let expected = || ApiError::member(name, MemberFault::Encoding("a port number"));
        let text = self.text(name, 5).map_err(|_| expected())?;
        text.try_map(|text| text.parse().map_err(|_| expected()))
    }

    fn pair(&self, name: &str) -> Option<&str> {
        let same = |(key, _): &&(String, String)| key == name;
        self.pairs
            .iter()
            .rev()
            .find(same)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
        headers
    }

    #[test]
    fn json_comes_before_the_form_and_the_form_before_the_query() {
        let uri: Uri = "/v2.6/agents?a=query&b=query&c=query&port=1"
            .parse()
            .unwrap();
        let json = headers("application/json; charset=utf-8");
        let params = Params::read(&uri, &json, br#"{"a": "json", "b": null, "port": 9002}"#);
        let params = params.unwrap();
        assert_eq!(params.text("a", 10).unwrap(), Given::Value("json"));
        assert_eq!(params.text("b", 10).unwrap(), Given::Null);
        assert_eq!(params.text("c", 10).unwrap(), Given::Value("query"));
        assert_eq!(params.text("d", 10).unwrap(), Given::Absent);
        assert!(params.text("c", 4).is_err());
        assert_eq!(params.port("port").unwrap(), Given::Value(9002));
        let form = headers("application/x-www-form-urlencoded");
        let params = Params::read(&uri, &form, b"a=of%20form&port=9003").unwrap();
        assert_eq!(params.text("a", 10).unwrap(), Given::Value("of form"));
        assert_eq!(params.text("b", 10).unwrap(), Given::Value("query"));
        assert_eq!(params.port("port").unwrap(), Given::Value(9003));
    }

    #[test]
    fn x01_what_cannot_be_read_is_refused_and_what_is_no_object_says_nothing() {
        let uri: Uri = "/v2.6/agents".parse().unwrap();
        let json = headers("application/json");
        for body in ["", "notjson", r#"{"a":1,"a":2}"#, "{", "\u{feff}{}"] {
            assert!(
                Params::read(&uri, &json, body.as_bytes()).is_err(),
                "{body}"
            );
        }
        for (kind, body) in [
            ("application/json", "[1]"),
            ("application/vnd.api+json", "null"),
            ("text/plain", "notjson"),
            ("", "notjson"),
        ] {
            let params = Params::read(&uri, &headers(kind), body.as_bytes()).unwrap();
            assert_eq!(params.text("a", 10).unwrap(), Given::Absent);
        }
        for port in ["65536", "-1", "1.5", "true", "[]", r#""x""#, r#""""#] {
            let body = format!(r#"{{"port": {port}}}"#);
            let params = Params::read(&uri, &json, body.as_bytes()).unwrap();
            assert!(params.port("port").is_err(), "{port}");
        }
    }
}
