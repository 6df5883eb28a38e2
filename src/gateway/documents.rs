//! The protocol as documents for programs. Tests hold them against what the server sends.

/// AsyncAPI 3 of the WebSocket's messages and of those in Redis.
const ASYNCAPI: &str = include_str!("../../docs/asyncapi.json");
/// OpenAPI 3.1 of the HTTP routes.
const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// The document at a path, as JSON.
pub fn document(path: &str) -> Option<&'static str> {
    match path {
        "/api/v1/asyncapi.json" => Some(ASYNCAPI),
        "/api/v1/openapi.json" => Some(OPENAPI),
        _ => None,
    }
}
