//! The chart page and the operator's page, embedded in the binary.

use bytes::Bytes;
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "web/"]
#[include = "*.html"]
#[include = "*.js"]
#[include = "*.mjs"]
#[include = "*.css"]
#[include = "*.svg"]
#[exclude = "test/*"]
struct Web;

/// One file of the pages.
#[derive(Debug)]
pub struct File {
    pub content_type: &'static str,
    pub bytes: Bytes,
}

/// The file at a path: `/` and `/ops` are the pages, their parts are under `/ui/`.
pub fn file(path: &str) -> Option<File> {
    let name = match path {
        "/" => "index.html",
        "/ops" => "ops.html",
        path => path.strip_prefix("/ui/")?,
    };
    let content_type = match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => return None,
    };
    let bytes = match Web::get(name)?.data {
        std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        std::borrow::Cow::Owned(bytes) => bytes.into(),
    };
    Some(File {
        content_type,
        bytes,
    })
}
