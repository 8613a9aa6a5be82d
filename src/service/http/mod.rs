//! The HTTP side of a replica.
//!
//! One file a family of routes. Each adds its routes with the role that it asks for ([`access`]), reads what it needs off
//! the request within limits ([`request`]), calls the same function of the library that the command line calls, and answers
//! its document, or a problem document ([`problem`]). Nothing here knows a key of Redis or decides what a task may do.

#![allow(
    clippy::result_large_err,
    reason = "a problem is made once a request at most, and is read more easily without a box"
)]

mod access;
mod agents;
mod body;
mod dead_letters;
mod events;
mod feed;
mod frame;
mod groups;
mod health;
mod listen;
mod metrics;
mod openapi;
mod operate;
mod problem;
mod process;
mod request;
mod routes;
mod scale;
mod tasks;
mod trace;
mod traffic;
mod triggers;

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::middleware;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::openapi::document as openapi;

use self::access::Guard;
use self::feed::Feed;
use self::problem::Problem;
use self::routes::Routes;
use self::traffic::Traffic;
use super::config::HttpConfig;
use crate::domain::id::ReplicaId;
use crate::runtime::defaults::Defaults;
use crate::runtime::overview::Lookout;
use crate::runtime::replica::ReplicaHandle;
use crate::runtime::request::new_actor;
use crate::store::Store;

/// What every route may use.
#[derive(Clone)]
pub(super) struct Api(Arc<Inner>);

struct Inner {
    store: Store,
    /// What a task gets where its trigger says nothing.
    defaults: Defaults,
    /// Who stands in the events that requests cause.
    actor: ReplicaId,
    replica: ReplicaHandle,
    feed: Feed,
    lookout: Lookout,
    traffic: Traffic,
}

impl Api {
    /// What answers for a replica. `store` is a connection of its own: requests must not wait behind tasks, nor tasks behind
    /// requests. Streams end with `stop`.
    pub(super) fn new(store: Store, defaults: Defaults, replica: ReplicaHandle, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            lookout: Lookout::new(store.clone()),
            traffic: Traffic::default(),
            store,
            defaults,
            actor: new_actor(),
            replica,
            feed: Feed::new(stop),
        }))
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    fn replica(&self) -> &ReplicaHandle {
        &self.0.replica
    }

    /// Looks at the deployment for those who ask often.
    fn lookout(&self) -> &Lookout {
        &self.0.lookout
    }

    fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// How many clients follow the log live.
    fn followers(&self) -> usize {
        self.0.feed.followers()
    }
}

/// All routes. What answers under a path of its own is added here, with the role that it asks for.
fn routes() -> Routes {
    let routes = Routes::default();
    let routes = health::routes(routes);
    let routes = openapi::routes(routes);
    let routes = metrics::routes(routes);
    let routes = scale::routes(routes);
    let routes = triggers::routes(routes);
    let routes = tasks::routes(routes);
    let routes = agents::routes(routes);
    let routes = groups::routes(routes);
    let routes = dead_letters::routes(routes);
    let routes = events::routes(routes);
    operate::routes(routes)
}

/// Everything that answers.
fn router(api: Api, config: &HttpConfig) -> Router {
    let (router, table) = routes().into_parts();
    let guard = Arc::new(Guard::new(config, table));
    let router = router
        .fallback(async || Problem::new("NotFound", "there is no such path"))
        .method_not_allowed_fallback(async |method: Method| {
            Problem::new("MethodNotAllowed", format!("this path does not know {method}"))
        })
        .layer(middleware::from_fn_with_state(guard, access::check));
    frame::around(router, &api).with_state(api)
}

/// Answers until `stop`.
pub(super) async fn serve(listener: TcpListener, api: Api, config: &HttpConfig, stop: CancellationToken) {
    let ringing = api.clone();
    let answering = listen::serve(listener, router(api, config), stop);
    tokio::join!(answering, ringing.0.feed.ring(ringing.store()));
}
