//! The document as one page of HTML.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Renders an OpenAPI document.
///
/// # Security
/// Whatever stands in the document is escaped; the page holds no script. (X07)
pub(super) fn render(document: &Value) -> String {
    let info = document.pointer("/info");
    let title = text(info, "title");
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<link rel=\"stylesheet\" href=\"/docs/style.css\">\n</head>\n\
         <body>\n<h1>{title}</h1>\n<p>{}</p>\n\
         <p>Version {}. For programs: <a href=\"/openapi.json\">openapi.json</a>.</p>\n",
        text(info, "description"),
        text(info, "version"),
    );
    for tag in list(document.pointer("/tags")) {
        let name = tag.get("name").and_then(Value::as_str).unwrap_or("");
        let description = text(Some(tag), "description");
        page.push_str(&format!(
            "<h2>{}</h2>\n<p>{description}</p>\n",
            escaped(name)
        ));
        for (path, item) in object(document.pointer("/paths")) {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let tags = list(operation.get("tags"));
                if tags.iter().any(|tag| tag.as_str() == Some(name)) {
                    page.push_str(&operation_section(method, path, operation));
                }
            }
        }
    }
    page.push_str("<h2>Schemas</h2>\n");
    for (name, schema) in object(document.pointer("/components/schemas")) {
        let name = escaped(name);
        page.push_str(&format!("<h3 id=\"{name}\">{name}</h3>\n"));
        page.push_str(&shown(schema));
    }
    page.push_str("</body>\n</html>\n");
    page
}

fn operation_section(method: &str, path: &str, operation: &Value) -> String {
    let mut section = format!(
        "<details>\n<summary><b>{}</b> <code>{}</code> {}</summary>\n",
        escaped(&method.to_uppercase()),
        escaped(path),
        text(Some(operation), "summary"),
    );
    section.push_str(&format!(
        "<p>{}</p>\n",
        text(Some(operation), "description")
    ));
    let permissions = list(operation.get("security")).iter();
    let permissions = permissions.filter_map(|scheme| scheme.as_object()?.values().next());
    for action in permissions.flat_map(|actions| list(Some(actions))) {
        let action = escaped(action.as_str().unwrap_or(""));
        section.push_str(&format!("<p>Permission: <code>{action}</code></p>\n"));
    }
    let parameters = list(operation.get("parameters"));
    if !parameters.is_empty() {
        section.push_str("<table>\n<tr><th>Parameter</th><th>In</th><th>Meaning</th></tr>\n");
        for parameter in parameters {
            let cell = |name| text(Some(parameter), name);
            section.push_str(&format!(
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>\n",
                cell("name"),
                cell("in"),
                cell("description"),
            ));
        }
        section.push_str("</table>\n");
    }
    for (_, content) in object(operation.pointer("/requestBody/content")) {
        section.push_str("<p>Request</p>\n");
        section.push_str(&shown(content.get("schema").unwrap_or(&Value::Null)));
    }
    for (status, response) in object(operation.get("responses")) {
        let description = text(Some(response), "description");
        section.push_str(&format!("<p>{} {description}</p>\n", escaped(status)));
        for (_, content) in object(response.get("content")) {
            section.push_str(&shown(content.get("schema").unwrap_or(&Value::Null)));
        }
    }
    section.push_str("</details>\n");
    section
}

/// A schema: a link where it is another one's, its JSON where it is not.
fn shown(schema: &Value) -> String {
    let reference = schema.get("$ref").and_then(Value::as_str);
    let name = reference.and_then(|it| it.strip_prefix("#/components/schemas/"));
    match name {
        Some(name) => {
            let name = escaped(name);
            format!("<p><a href=\"#{name}\"><code>{name}</code></a></p>\n")
        }
        None => {
            let json = serde_json::to_string_pretty(schema).unwrap_or_default();
            format!("<pre>{}</pre>\n", escaped(&json))
        }
    }
}

fn text(of: Option<&Value>, name: &str) -> String {
    let text = of.and_then(|of| of.get(name)?.as_str());
    escaped(text.unwrap_or(""))
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn object(value: Option<&Value>) -> impl Iterator<Item = (&str, &Value)> {
    let members: Option<&Map<String, Value>> = value.and_then(Value::as_object);
    let members = members.into_iter().flatten();
    members.map(|(name, value)| (name.as_str(), value))
}

/// A text that is neither markup nor the end of an attribute.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            control if control.is_control() && control != '\n' => {
                // Writing to a text cannot fail.
                let _ = write!(escaped, "{}", control.escape_default());
            }
            plain => escaped.push(plain),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn x07_what_the_document_says_is_text_on_the_page() {
        let hostile = "<script>alert(1)</script>\"'\u{1b}[31m";
        let page = render(&json!({
            "info": {"title": hostile, "description": hostile, "version": hostile},
            "tags": [{"name": "agents", "description": hostile}],
            "paths": {hostile: {"get": {
                "tags": ["agents"],
                "summary": hostile,
                "parameters": [{"name": hostile, "in": "query", "description": hostile}],
                "responses": {hostile: {"description": hostile}},
            }}},
            "components": {"schemas": {hostile: {"type": "object", "description": hostile}}},
        }));
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
            "{page}"
        );
        for raw in ["<script", "\u{1b}", "\"'"] {
            assert!(!page.contains(raw), "{raw:?}: {page}");
        }
    }
}
