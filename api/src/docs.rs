//! `/openapi.json` and `/docs`: the interface's description, for programs and for people.
//!
//! The page is made from the document when the server starts. It holds no script and asks nothing
//! of anybody else.

mod page;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use utoipa::OpenApi;

use crate::auth::Permission;
use crate::error::json_body;
use crate::openapi;
use crate::surface::{Route, Shared, Surface};

/// The document, as a text and as a page.
pub struct Docs {
    json: Bytes,
    html: Bytes,
}

impl Docs {
    /// The document of these routes, and of its own.
    pub fn of(routes: &[Route]) -> Arc<Self> {
        let routes = [routes, &own_routes()].concat();
        let document = openapi::document(&routes);
        // Serialising the document's own types cannot fail.
        let value = serde_json::to_value(&document).unwrap_or_default();
        Arc::new(Self {
            json: Bytes::from(text(&document)),
            html: Bytes::from(page::render(&value)),
        })
    }
}

/// The document as it is kept in the repository and served.
pub fn text(document: &utoipa::openapi::OpenApi) -> String {
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

fn own_routes() -> [Route; 3] {
    ["/openapi.json", "/docs", "/docs/style.css"].map(|path| Route::get(path, Permission::Public))
}

/// `/openapi.json` and `/docs`.
pub fn surface(shared: Arc<Shared>) -> Surface<Arc<Docs>> {
    let [document, page, style] = own_routes();
    Surface::new(shared)
        .route(document, show_document)
        .route(page, show_page)
        .route(style, show_style)
}

#[derive(OpenApi)]
#[openapi(paths(show_document, show_page, show_style))]
struct Described;

/// What this surface's routes answer.
pub fn described() -> utoipa::openapi::OpenApi {
    Described::openapi()
}

/// Shows this document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server",
    responses((status = 200, body = serde_json::Value)),
)]
async fn show_document(State(docs): State<Arc<Docs>>) -> Response {
    json_body(StatusCode::OK, Body::from(docs.json.clone()))
}

/// Shows this document to people.
#[utoipa::path(
    get, path = "/docs", tag = "server",
    responses((status = 200, body = String, content_type = "text/html")),
)]
async fn show_page(State(docs): State<Arc<Docs>>) -> Response {
    asset(docs.html.clone(), "text/html; charset=utf-8")
}

/// How the page looks.
#[utoipa::path(
    get, path = "/docs/style.css", tag = "server",
    responses((status = 200, body = String, content_type = "text/css")),
)]
async fn show_style() -> Response {
    let style = Bytes::from_static(include_bytes!("docs/style.css"));
    asset(style, "text/css; charset=utf-8")
}

/// No script, no frame, no form, nothing from elsewhere. (A04)
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

fn asset(body: Bytes, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    let pairs: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in pairs {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
