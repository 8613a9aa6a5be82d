//! Collects routes, each with what it asks of a request and with its description.
//!
//! A route is added by the description that `#[utoipa::path]` makes of its function, so the method, the path and the
//! documents stand in one place, and there is no route that the OpenAPI document does not know:
//!
//! ```ignore
//! /// A task with everything that is kept of it.
//! #[utoipa::path(get, path = "/v1/tasks/{id}", operation_id = "get_task", tag = "tasks",
//!     params(("id" = String, Path, description = "The task")),
//!     responses((status = 200, body = TaskDocument)))]
//! async fn show(State(api): State<Api>, Id(id): Id) -> Result<Json<TaskDocument>, Problem>
//!
//! routes.add(__path_show, show, Access::Needs(Role::Read), &["TaskNotFound"])
//! ```
//!
//! The last argument names the codes of problems that are the route's own; those that follow from its access, its body and
//! its parameters are added by [`openapi`](super::openapi).

use std::collections::HashMap;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use utoipa::__dev::SchemaReferences;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterIn};
use utoipa::openapi::{RefOr, Schema};

use super::Api;
use super::access::Access;
use super::problem::Problem;
use super::request::Query;

/// Routes with their access and their descriptions. A family of routes is a function from one to a longer one.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Api>,
    described: Vec<Described>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// What is known of a route.
pub(super) struct Described {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) access: Access,
    pub(super) operation: Operation,
    /// The problems that are its own.
    pub(super) codes: &'static [&'static str],
}

impl Described {
    /// Whether parameters that it does not know are let pass. Probes, scrapers and browsers add some of their own.
    pub(super) fn takes_any_query(&self) -> bool {
        !self.path.starts_with("/v1/")
    }

    /// Whether it has parameters in the query, and refuses others itself.
    fn reads_query(&self) -> bool {
        let mut parameters = self.operation.parameters.iter().flatten();
        parameters.any(|parameter| match parameter {
            RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
            RefOr::Ref(_) => false,
        })
    }
}

/// Refuses all parameters in the query.
async fn refuse_query(query: Query, request: Request, next: Next) -> Result<Response, Problem> {
    query.finish()?;
    Ok(next.run(request).await)
}

impl Routes {
    /// Adds what answers the method and the path of a description. What answers GET answers HEAD with it.
    pub(super) fn add<P, H, T>(mut self, _: P, handler: H, access: Access, codes: &'static [&'static str]) -> Self
    where
        P: utoipa::Path + SchemaReferences,
        H: Handler<T, Api>,
        T: 'static,
    {
        let (method, filter) = match P::methods().first() {
            Some(HttpMethod::Post) => (Method::POST, MethodFilter::POST),
            Some(HttpMethod::Put) => (Method::PUT, MethodFilter::PUT),
            Some(HttpMethod::Patch) => (Method::PATCH, MethodFilter::PATCH),
            Some(HttpMethod::Delete) => (Method::DELETE, MethodFilter::DELETE),
            Some(HttpMethod::Get | HttpMethod::Head | HttpMethod::Options | HttpMethod::Trace) | None => {
                (Method::GET, MethodFilter::GET)
            }
        };
        let route = Described {
            method,
            path: P::path(),
            access,
            operation: P::operation(),
            codes,
        };
        let mut answers = on(filter, handler);
        if !route.takes_any_query() && !route.reads_query() {
            answers = answers.route_layer(middleware::from_fn(refuse_query));
        }
        self.router = self.router.route(&route.path, answers);
        P::schemas(&mut self.schemas);
        self.described.push(route);
        self
    }

    /// All routes as they were added.
    pub(super) fn described(&self) -> &[Described] {
        &self.described
    }

    /// What the descriptions refer to, by name.
    pub(super) fn schemas(&self) -> &[(String, RefOr<Schema>)] {
        &self.schemas
    }

    /// The routes, and who may use each.
    pub(super) fn into_parts(self) -> (Router<Api>, HashMap<(Method, String), Access>) {
        let table = self.described.into_iter();
        let table = table.map(|route| ((route.method, route.path), route.access)).collect();
        (self.router, table)
    }
}
