//! A surface: routes, each with its permission and limits declared as data.
//!
//! A handler cannot be reached except through [`Surface::route`], which takes the permission, so
//! that no route is without one. (A01)

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use bytes::BytesMut;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::address::{RequestRate, Share, Shares};
use crate::auth::{Admitted, Gate, Peer, Permission};
use crate::error::{ApiError, refuse};
use crate::keylime::KeylimeCaller;
use crate::limits;
use crate::metrics::{self, InFlight};

/// What a route demands, and what it may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, as axum writes it.
    pub path: &'static str,
    /// The permission.
    pub permission: Permission,
    /// How long its body may be.
    pub body: BodyLimit,
    /// How many requests of it may be in work at once; `None` for the surface's limit alone.
    pub at_once: Option<AtOnceMax>,
    /// The path that this one is another spelling of.
    pub alias_of: Option<&'static str>,
}

/// How many requests of one route, in all of its spellings, are in work at once: from its admission
/// until its answer was sent, because all the while its body, or what it is answered with, takes
/// memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtOnceMax {
    /// The limit's name in [`limits`].
    pub name: &'static str,
    /// From everywhere.
    pub max: usize,
    /// From one address.
    pub of_address: usize,
    /// A body takes one of these places for each so many bytes that have come of it; with 0 it takes
    /// one, however long it is.
    pub bytes_each: usize,
}

/// Paths, and other spellings of each.
pub type Aliases = &'static [(&'static str, &'static [&'static str])];

/// How long a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLimit {
    /// The route reads none.
    None,
    /// This many bytes, under this name in [`limits`].
    Bytes(&'static str, usize),
}

impl Route {
    /// A route that reads no body.
    pub const fn get(path: &'static str, permission: Permission) -> Self {
        Self {
            method: Method::GET,
            path,
            permission,
            body: BodyLimit::None,
            at_once: None,
            alias_of: None,
        }
    }

    /// A route that reads a body of this length.
    pub const fn post(path: &'static str, permission: Permission, body: BodyLimit) -> Self {
        Self {
            method: Method::POST,
            path,
            permission,
            body,
            at_once: None,
            alias_of: None,
        }
    }

    /// A route that puts what its path names, or its body, into place.
    pub const fn put(path: &'static str, permission: Permission, body: BodyLimit) -> Self {
        Self {
            method: Method::PUT,
            path,
            permission,
            body,
            at_once: None,
            alias_of: None,
        }
    }

    /// A route that changes what its path names, as its body says.
    pub const fn patch(path: &'static str, permission: Permission, body: BodyLimit) -> Self {
        Self {
            method: Method::PATCH,
            path,
            permission,
            body,
            at_once: None,
            alias_of: None,
        }
    }

    /// A route that ends what its path names.
    pub const fn delete(path: &'static str, permission: Permission) -> Self {
        Self {
            method: Method::DELETE,
            path,
            permission,
            body: BodyLimit::None,
            at_once: None,
            alias_of: None,
        }
    }
}

/// Limits and credentials that all routes of a surface share.
pub struct Shared {
    gate: Gate,
    rate: RequestRate,
    in_work: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    bodies_by_address: Shares,
}

impl Shared {
    /// Full limits, and this gate.
    ///
    /// An address may make `per_second` requests each second, and four times as many at once.
    /// [`limits::REQUESTS_PER_ADDRESS_PER_SECOND`] suits fleets whose machines have addresses of
    /// their own.
    pub fn new(gate: Gate, per_second: usize) -> Arc<Self> {
        Arc::new(Self {
            gate,
            rate: RequestRate::new(per_second),
            in_work: Arc::new(Semaphore::new(limits::CONCURRENT_REQUESTS_MAX)),
            bodies: Arc::new(Semaphore::new(limits::BODIES_AT_ONCE_MAX)),
            bodies_by_address: Shares::default(),
        })
    }

    /// Who decides on permissions.
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }
}

/// Routes, and the state that their handlers share.
pub struct Surface<S> {
    router: Router<S>,
    routes: Vec<Route>,
    shared: Arc<Shared>,
    aliases: Aliases,
}

impl<S: Clone + Send + Sync + 'static> Surface<S> {
    /// A surface without routes.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self::with_aliases(shared, &[])
    }

    /// A surface without routes. Those that it gets are reached in each of these spellings, too.
    pub fn with_aliases(shared: Arc<Shared>, aliases: Aliases) -> Self {
        Self {
            router: Router::new(),
            routes: Vec::new(),
            shared,
            aliases,
        }
    }

    /// Adds a route, in each of its spellings. The handler runs only when the caller has the
    /// route's permission, and finds the whole body, within its limit, in memory.
    #[must_use]
    pub fn route<H, T>(mut self, route: Route, handler: H) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let filter = match route.method {
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::DELETE => MethodFilter::DELETE,
            Method::PATCH => MethodFilter::PATCH,
            _ => MethodFilter::GET,
        };
        let at_once = route.at_once.map(|limit| {
            Arc::new(AtOnce {
                limit,
                permits: Arc::new(Semaphore::new(limit.max)),
                by_address: Shares::default(),
            })
        });
        let aliases = self.aliases.iter().find(|(path, _)| *path == route.path);
        let aliases = aliases.map_or(&[][..], |(_, aliases)| aliases);
        let aliases = aliases.iter().map(|path| Route {
            path,
            alias_of: Some(route.path),
            ..route.clone()
        });
        for route in std::iter::once(route.clone()).chain(aliases) {
            let entrance = Entrance {
                route: route.clone(),
                shared: Arc::clone(&self.shared),
                at_once: at_once.clone(),
            };
            // The entrance has read the body within the route's own limit; the extractor's is
            // smaller.
            let guarded = on(filter, handler.clone())
                .layer(DefaultBodyLimit::disable())
                .layer(from_fn_with_state(Arc::new(entrance), enter));
            self.router = self.router.route(route.path, guarded);
            self.routes.push(route);
        }
        self
    }

    /// The routes and what they demand.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Its router, to be [`join`]ed with others.
    pub fn into_router(self, state: S) -> Router {
        self.router.with_state(state)
    }
}

/// Surfaces with their states, joined: what a listener serves.
pub type Joined = Router;

/// One router of several surfaces. Unknown paths and methods are answered in the one error shape,
/// at the rate that an address has for all of its requests.
pub fn join(shared: &Arc<Shared>, routers: impl IntoIterator<Item = Router>) -> Joined {
    join_with(shared, routers, refuse)
}

/// The same, with another shape for what no route takes.
pub(crate) fn join_with(
    shared: &Arc<Shared>,
    routers: impl IntoIterator<Item = Router>,
    refuse: fn(&str, ApiError) -> Response,
) -> Joined {
    let joined = routers.into_iter().fold(Router::new(), Router::merge);
    let unrouted = |error: ApiError| {
        let shared = Arc::clone(shared);
        move |request: Request| {
            let refusal = refuse_unrouted(&shared, &request, error.clone(), refuse);
            async move { refusal }
        }
    };
    // Last, because it holds for the routes that are there.
    joined
        .fallback(unrouted(ApiError::NotFound("path")))
        .method_not_allowed_fallback(unrouted(ApiError::Method))
}

fn refuse_unrouted(
    shared: &Shared,
    request: &Request,
    error: ApiError,
    refuse: fn(&str, ApiError) -> Response,
) -> Response {
    let in_flight = InFlight::start(metrics::known_method(request.method()), metrics::NO_ROUTE);
    let peer = request.extensions().get::<Peer>();
    let within_rate = peer.map_or(Ok(()), |peer| shared.rate.take(peer.address.ip()));
    let response = refuse(request.uri().path(), within_rate.err().unwrap_or(error));
    in_flight.finish(response.status());
    response
}

/// What stands before one route.
struct Entrance {
    route: Route,
    shared: Arc<Shared>,
    at_once: Option<Arc<AtOnce>>,
}

/// The places of one route.
struct AtOnce {
    limit: AtOnceMax,
    permits: Arc<Semaphore>,
    by_address: Shares,
}

/// Admits a request, reads its body and lets the handler work.
///
/// The order is by cost: rate, permission, body, capacity. Capacity comes last, so that whoever
/// sends a body slowly holds none of what others work with, and each address has but a share of the
/// bodies that are read at once. (X04) A route with a limit of its own is the exception, because
/// that limit bounds the memory of its bodies: an address has few of its places, and loses one when
/// the body does not come in fast enough, or is not read to its end in time. The handler runs in a task of its own:
/// a client that goes away cannot stop it between two steps, and a panic ends as an answer.
async fn enter(State(entrance): State<Arc<Entrance>>, request: Request, next: Next) -> Response {
    let method = metrics::known_method(&entrance.route.method);
    let in_flight = InFlight::start(method, entrance.route.path);
    let response = match admit(&entrance, request).await {
        Ok((request, held)) => {
            let answered = run(next.run(request), held).await;
            answered.unwrap_or_else(|error| refuse(entrance.route.path, error))
        }
        Err(error) => refuse(entrance.route.path, error),
    };
    in_flight.finish(response.status());
    response
}

/// What a request holds of the limits.
struct Held {
    /// Until its handler has ended.
    in_work: OwnedSemaphorePermit,
    /// Until its answer was sent.
    place: Option<Place>,
}

/// One or more of a route's places.
struct Place {
    at_once: Arc<AtOnce>,
    address: IpAddr,
    held: Vec<(OwnedSemaphorePermit, Share)>,
}

impl Place {
    fn take(at_once: &Arc<AtOnce>, address: IpAddr) -> Result<Self, ApiError> {
        let mut place = Self {
            at_once: Arc::clone(at_once),
            address,
            held: Vec::with_capacity(1),
        };
        place.one_more()?;
        Ok(place)
    }

    fn one_more(&mut self) -> Result<(), ApiError> {
        let AtOnceMax {
            name, of_address, ..
        } = self.at_once.limit;
        let permit = permit(&self.at_once.permits, name)?;
        let share = self.at_once.by_address.take(self.address, of_address);
        let share = share.ok_or_else(|| ApiError::limited(name, 1))?;
        self.held.push((permit, share));
        Ok(())
    }

    /// Takes as many as a body needs of which so many bytes have come.
    fn cover(&mut self, bytes: usize) -> Result<(), ApiError> {
        let needed = match self.at_once.limit.bytes_each {
            0 => 1,
            each => bytes.div_ceil(each),
        };
        while self.held.len() < needed {
            self.one_more()?;
        }
        Ok(())
    }
}

/// A body that has a place until the last of it was taken for sending. It is given in pieces, so
/// that it is as long there as it takes memory.
struct Placed {
    body: Body,
    /// What was taken from the body, and not given yet.
    rest: Bytes,
    _place: Place,
}

/// Bytes of one piece: more than these wait in no connection beside what it has buffered.
const PIECE_BYTES: usize = 64 * 1024;

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            let frame = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

async fn admit(entrance: &Entrance, request: Request) -> Result<(Request, Held), ApiError> {
    let Entrance {
        route,
        shared,
        at_once,
    } = entrance;
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        // Only a listener that does not say who calls could cause this.
        return Err(ApiError::NotAuthenticated);
    };
    shared.rate.take(peer.address.ip())?;
    let (mut parts, body) = request.into_parts();
    let admitted = shared.gate.admit(route.permission, &peer, &parts.headers);
    let admitted = match admitted.await {
        Ok(admitted) => admitted,
        Err(error) => {
            discard(body).await;
            return Err(error);
        }
    };
    let place = at_once
        .as_ref()
        .map(|at_once| Place::take(at_once, peer.address.ip()));
    let mut place = place.transpose()?;
    match admitted {
        Admitted::Anybody => {}
        Admitted::Caller(caller) => {
            parts.extensions.insert(caller);
        }
        Admitted::Keylime(caller) => {
            if let KeylimeCaller::Agent(agent) = &caller {
                parts.extensions.insert(agent.clone());
            }
            parts.extensions.insert(caller);
        }
    }
    let body = match route.body {
        BodyLimit::None => Bytes::new(),
        BodyLimit::Bytes(name, max) => {
            let _reading = permit(&shared.bodies, "BODIES_AT_ONCE_MAX")?;
            let most = limits::BODIES_PER_ADDRESS_MAX;
            let share = shared.bodies_by_address.take(peer.address.ip(), most);
            let _share = share.ok_or_else(|| ApiError::limited("BODIES_PER_ADDRESS_MAX", 1))?;
            read(&parts.headers, body, (name, max), &mut place).await?
        }
    };
    let in_work = permit(&shared.in_work, "CONCURRENT_REQUESTS_MAX")?;
    let held = Held { in_work, place };
    Ok((Request::from_parts(parts, Body::from(body)), held))
}

fn permit(
    semaphore: &Arc<Semaphore>,
    limit: &'static str,
) -> Result<OwnedSemaphorePermit, ApiError> {
    let acquired = Arc::clone(semaphore).try_acquire_owned();
    acquired.map_err(|_| ApiError::limited(limit, 1))
}

/// A refusal waits no longer for what it does not read.
const DISCARDED_WITHIN: Duration = Duration::from_secs(1);

/// Takes a short body of a refused request off the connection. Over HTTP/2, clients that are told
/// that nobody reads what they are still sending report that, and not the refusal (curl 7.88).
async fn discard(body: Body) {
    let most = limits::OPERATOR_BODY_BYTES_MAX;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced <= most {
        let read = axum::body::to_bytes(body, most);
        let _ = tokio::time::timeout(DISCARDED_WITHIN, read).await;
    }
}

/// Bytes of an announced body that there is room for before they come.
const EXPECTED_BYTES_MAX: usize = 4 << 20;

/// The whole body, within a limit, the places that it takes, and a time. (X01, X02)
async fn read(
    headers: &HeaderMap,
    body: Body,
    (name, max): (&'static str, usize),
    place: &mut Option<Place>,
) -> Result<Bytes, ApiError> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(ApiError::ContentEncoding);
    }
    let too_long = || {
        metrics::limit_rejected(name);
        ApiError::BodyTooLong { max }
    };
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max) {
        return Err(too_long());
    }
    let begun = Instant::now();
    let mut limited = Limited::new(body, max);
    // What is announced and does not come costs no more than this.
    let expected = announced.unwrap_or(0).min(EXPECTED_BYTES_MAX);
    let mut bytes = BytesMut::with_capacity(expected);
    loop {
        match tokio::time::timeout_at(reading_ends(begun, bytes.len()), limited.frame()).await {
            Ok(None) => return Ok(bytes.freeze()),
            // Trailers are no part of the body.
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if let Some(place) = place {
                    place.cover(bytes.len().saturating_add(data.len()))?;
                }
                bytes.extend_from_slice(&data);
            }
            Ok(Some(Err(error))) if error.is::<LengthLimitError>() => return Err(too_long()),
            Ok(Some(Err(_))) => return Err(ApiError::BodyBroken),
            Err(_) => {
                metrics::limit_rejected("REQUEST_MS_MAX");
                return Err(ApiError::TooSlow);
            }
        }
    }
}

/// A long body has more time than a short one, as it comes in and not as it is announced: whoever
/// announces much and sends nothing is soon gone.
fn reading_ends(begun: Instant, received: usize) -> Instant {
    let earned = received
        .saturating_mul(1000)
        .checked_div(limits::BODY_BYTES_PER_SECOND_MIN);
    let time = limits::REQUEST_MS_MAX.saturating_add(earned.unwrap_or(0));
    begun.checked_add(limits::duration(time)).unwrap_or(begun)
}

async fn run(
    handler: impl Future<Output = Response> + Send + 'static,
    held: Held,
) -> Result<Response, ApiError> {
    let task = tokio::spawn(async move {
        let response = handler.await;
        drop(held.in_work);
        match held.place {
            None => response,
            Some(place) => response.map(|body| {
                Body::new(Placed {
                    body,
                    rest: Bytes::new(),
                    _place: place,
                })
            }),
        }
    });
    let time = limits::duration(limits::REQUEST_MS_MAX);
    match tokio::time::timeout(time, task).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            tracing::error!(%error, "a request's handler failed");
            Err(ApiError::Unavailable("the request could not be worked on"))
        }
        Err(_) => {
            metrics::limit_rejected("REQUEST_MS_MAX");
            Err(ApiError::Unfinished)
        }
    }
}
