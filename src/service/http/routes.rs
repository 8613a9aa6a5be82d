//! Collects routes, each with what it asks of a request.

use std::collections::HashMap;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

use super::Api;
use super::access::Access;

/// Routes with their access. A family of routes is a function from one to a longer one.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Api>,
    table: HashMap<(Method, String), Access>,
}

impl Routes {
    /// Adds what answers GET, and HEAD with it.
    pub(super) fn get<H, T>(self, path: &str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::GET, MethodFilter::GET, path, access, handler)
    }

    /// Adds what answers POST.
    pub(super) fn post<H, T>(self, path: &str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::POST, MethodFilter::POST, path, access, handler)
    }

    /// Adds what answers PATCH.
    pub(super) fn patch<H, T>(self, path: &str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::PATCH, MethodFilter::PATCH, path, access, handler)
    }

    /// Adds what answers DELETE.
    pub(super) fn delete<H, T>(self, path: &str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.add(Method::DELETE, MethodFilter::DELETE, path, access, handler)
    }

    fn add<H, T>(mut self, method: Method, filter: MethodFilter, path: &str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        self.router = self.router.route(path, on(filter, handler));
        self.table.insert((method, path.to_owned()), access);
        self
    }

    /// The routes, and who may use each.
    pub(super) fn into_parts(self) -> (Router<Api>, HashMap<(Method, String), Access>) {
        (self.router, self.table)
    }
}
