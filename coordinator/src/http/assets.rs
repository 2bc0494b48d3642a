//! The files of the page, embedded in the program. They hold nothing of the job.

use std::sync::LazyLock;

use axum::{Router, response::IntoResponse as _, routing::get};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};

/// The page loads only what this port serves, and no other page may show it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";
/// The file that `/` serves.
const INDEX: &str = "index.html";

/// One file.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

macro_rules! assets {
    ($($kind:ident: $($name:literal)*;)*) => {
        [$($(Asset {
            name: $name,
            kind: $kind,
            content: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/page/", $name)),
        },)*)*]
    };
}

static ASSETS: &[Asset] = &assets! {
    HTML: "index.html";
    SCRIPT: "access.js" "address.js" "app.js" "charts.js" "classes.js" "dom.js" "failures.js"
        "feed.js" "format.js" "highlight.js" "job.js" "map.js" "model.js" "quartiles.js"
        "transfers.js" "uplot.js" "workers.js";
    STYLE: "style.css" "uplot.css";
    SVG: "icon.svg";
    TEXT: "uplot.LICENSE";
};

/// Entity tags, in the order of [`ASSETS`]: a browser asks each time and receives a file once.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    let tag = |asset: &Asset| {
        let digest = blake3::hash(asset.content).to_hex();
        let tag = HeaderValue::try_from(format!("\"{}\"", &digest[..32]));
        tag.expect("hexadecimal digits are visible ASCII")
    };
    ASSETS.iter().map(tag).collect()
});

/// The headers of every answer of the page and the API.
pub(super) const PROTECTION: [(HeaderName, &str); 3] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
];

/// A route for each file, and `/` for the page.
pub(super) fn routes() -> Router {
    let files = ASSETS.iter().zip(TAGS.iter());
    files.fold(Router::new(), |router, (asset, tag)| {
        let answer = get(move |headers: HeaderMap| async move {
            let fixed = [
                (CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
                (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
                (ETAG, tag.clone()),
            ];
            let known = headers.get_all(IF_NONE_MATCH).iter();
            if known.into_iter().any(|known| names(known, tag)) {
                (StatusCode::NOT_MODIFIED, fixed).into_response()
            } else {
                (fixed, asset.content).into_response()
            }
        });
        let router = if asset.name == INDEX {
            router.route("/", answer.clone())
        } else {
            router
        };
        router.route(&format!("/{}", asset.name), answer)
    })
}

/// Whether `If-None-Match` names the tag. Proxies that compress make tags weak (RFC 9110 §13.1.2
/// compares without that).
fn names(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let tag = tag.to_str().unwrap_or_default();
    let known = known.to_str().unwrap_or_default().split(',').map(str::trim);
    let mut known = known.map(|known| known.strip_prefix("W/").unwrap_or(known));
    known.any(|known| known == tag || known == "*")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use axum::body::{Body, to_bytes};
    use http::{Request, Response};
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str, known: Option<&str>) -> Response<Body> {
        let request = Request::get(path);
        let request = match known {
            Some(tag) => request.header(IF_NONE_MATCH, tag),
            None => request,
        };
        let request = request.body(Body::empty()).unwrap();
        routes().oneshot(request).await.unwrap()
    }

    #[test]
    fn every_file_of_the_folder_is_embedded_as_it_is() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let there = std::fs::read_dir(&folder).unwrap();
        let there = there.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // For node, which tests the modules.
        let there: BTreeSet<String> = there.filter(|name| name != "package.json").collect();
        let embedded = ASSETS.iter().map(|asset| asset.name.to_owned()).collect();
        assert_eq!(there, embedded);
        for asset in ASSETS {
            let content = std::fs::read(folder.join(asset.name)).unwrap();
            assert!(asset.content == content, "{}", asset.name);
        }
    }

    #[test]
    fn the_page_is_small() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.content.len()).sum();
        println!("the page has {bytes} bytes");
        assert!(
            bytes < 180_000,
            "{bytes}: with the first snapshot at most 250,000"
        );
    }

    #[tokio::test]
    async fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = ask("/", None).await;
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[CONTENT_TYPE], HTML);
        assert_eq!(first.headers()[CACHE_CONTROL], "no-cache");
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        let content = to_bytes(first.into_body(), usize::MAX).await.unwrap();
        assert!(content.starts_with(b"<!doctype html>"));
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".to_owned(),
        ] {
            let again = ask("/index.html", Some(&known)).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(again.headers()[ETAG], tag.as_str());
            let content = to_bytes(again.into_body(), usize::MAX).await.unwrap();
            assert!(content.is_empty());
        }
        let other = ask("/app.js", Some(&tag)).await;
        assert_eq!(other.status(), StatusCode::OK, "the tag of another file");
        assert_eq!(other.headers()[CONTENT_TYPE], SCRIPT);
    }
}
