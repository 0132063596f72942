//! Lists that come in pages. (RFC 8288)

use hyper::header::{HeaderMap, LINK};
use serde::de::DeserializeOwned;

use super::{Address, Client, ClientError};

/// As many items as a page of the server has at most.
pub(crate) const PAGE_ITEMS: usize = 1000;
/// Ten million items; a server that names more pages leads in circles.
const PAGES_MAX: usize = 10_000;
const LINK_BYTES_MAX: usize = 4096;

impl Client {
    /// Every item of a list, or the first `limit` of them; `seen` hears how many there are so far.
    pub(crate) fn pages<T: DeserializeOwned>(
        &self,
        list: Address,
        limit: Option<usize>,
        seen: &dyn Fn(usize),
    ) -> Result<Vec<T>, ClientError> {
        let page_items = limit.filter(|limit| *limit < PAGE_ITEMS);
        let page_items = page_items.map(|items| items.max(1).to_string());
        let mut page = list.with("limit", page_items.as_deref());
        let mut items = Vec::new();
        for _ in 0..PAGES_MAX {
            let answer = self.get(&page)?;
            items.extend(answer.read::<Vec<T>>()?);
            seen(items.len());
            if let Some(limit) = limit.filter(|limit| items.len() >= *limit) {
                items.truncate(limit);
                return Ok(items);
            }
            match next(&answer.headers).and_then(|target| page.next(target)) {
                Some(next) => page = next,
                None => return Ok(items),
            }
        }
        Err(ClientError::Endless {
            server: self.server(),
            path: page.path().to_owned(),
        })
    }
}

/// The target of the link whose relation is `next`.
fn next(headers: &HeaderMap) -> Option<&str> {
    let links = headers.get_all(LINK).iter();
    links
        .filter_map(|link| link.to_str().ok())
        .filter(|link| link.len() <= LINK_BYTES_MAX)
        .find_map(|link| {
            let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
            let mut parameters = parameters.split(';').map(str::trim);
            parameters
                .any(|parameter| matches!(parameter, "rel=\"next\"" | "rel=next"))
                .then_some(target)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let of = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().unwrap());
            next(&headers).map(str::to_owned)
        };
        let target = Some("/agents/?after=b".to_owned());
        assert_eq!(of("</agents/?after=b>; rel=\"next\""), target);
        assert_eq!(of("</agents/?after=b>; a=b ; rel=next"), target);
        for other in [
            "</agents/?after=b>; rel=\"prev\"",
            "</agents/?after=b>",
            "/agents/?after=b; rel=\"next\"",
            "</agents/?after=b; rel=\"next\"",
            &format!("</{}>; rel=\"next\"", "a".repeat(5000)),
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(next(&HeaderMap::new()), None);
    }
}
