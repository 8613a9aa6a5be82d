//! Sends spans to a collector: OTLP over HTTP, as protobuf.
//!
//! Where to is said by `telemetry.otlp_endpoint`, or by the variables that all programs with `OpenTelemetry` know
//! (`OTEL_EXPORTER_OTLP_ENDPOINT` and those beside it), which also say what else there is to say: headers, sampling, the name
//! of the service. Spans leave in batches, from a thread of their own; a collector that does not answer costs spans and
//! nothing else.
//!
//! All of it is behind the feature `otlp`. A program without it refuses the setting, and says once that it leaves the
//! variables alone.

use super::config::TelemetryConfig;

/// The variables that say where to send traces.
const VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The program was built without them.
    #[error("`telemetry.otlp_endpoint`: this program was built without the feature `otlp`")]
    NotBuilt,
    /// What is set makes no sense.
    #[error("can not send traces: {0}")]
    Invalid(String),
}

fn is_in_environment() -> bool {
    VARIABLES
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// Traces that are sent, until it is dropped after [`Traces::finish`].
pub(super) struct Traces {
    #[cfg(feature = "otlp")]
    provider: opentelemetry_sdk::trace::SdkTracerProvider,
}

#[cfg(not(feature = "otlp"))]
impl Traces {
    /// Begins to send traces, where somebody said where to.
    pub(super) fn start(config: &TelemetryConfig) -> Result<Option<Self>, TracesError> {
        if config.otlp_endpoint.is_some() {
            return Err(TracesError::NotBuilt);
        }
        if is_in_environment() {
            tracing::info!("no traces are sent: this program was built without the feature `otlp`");
        }
        Ok(None)
    }

    /// Sends what is left.
    #[allow(
        clippy::unused_async,
        reason = "with the feature `otlp` there is something to wait for"
    )]
    pub(super) async fn finish(self) {}
}

#[cfg(feature = "otlp")]
mod sent {
    use std::pin::Pin;
    use std::time::Duration;

    use opentelemetry::{KeyValue, global};
    use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::runtime::Handle;

    use super::{TelemetryConfig, Traces, TracesError, is_in_environment};
    use crate::runtime::spans;

    /// How long a collector may take for a batch.
    const PATIENCE: Duration = Duration::from_secs(10);
    /// How long a process that ends waits for the last one.
    const FAREWELL: Duration = Duration::from_secs(3);
    /// What the service is called where no variable says otherwise.
    const SERVICE: &str = "waooaw-orchestration";

    impl Traces {
        /// Begins to send traces, where somebody said where to.
        pub(in crate::service) fn start(config: &TelemetryConfig) -> Result<Option<Self>, TracesError> {
            if config.otlp_endpoint.is_none() && !is_in_environment() {
                return Ok(None);
            }
            let client = reqwest::Client::builder()
                .timeout(PATIENCE)
                .build()
                .map_err(|problem| TracesError::Invalid(problem.to_string()))?;
            let client = Client {
                client,
                runtime: Handle::current(),
            };
            let mut exporter = SpanExporter::builder().with_http().with_http_client(client);
            if let Some(base) = &config.otlp_endpoint {
                exporter = exporter.with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/')));
            }
            let exporter = exporter
                .build()
                .map_err(|problem| TracesError::Invalid(problem.to_string()))?;
            let mut resource =
                Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
            if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
                resource = resource.with_service_name(SERVICE);
            }
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_id_generator(spans::Ids::default())
                .with_resource(resource.build())
                .build();
            global::set_tracer_provider(provider.clone());
            spans::start();
            tracing::info!(endpoint = config.otlp_endpoint, "traces are sent");
            Ok(Some(Self { provider }))
        }

        /// Sends what is left.
        pub(in crate::service) async fn finish(self) {
            // The exporter waits on a thread; its requests run here meanwhile.
            let ending = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FAREWELL));
            match ending.await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(problem)) => tracing::warn!(%problem, "the last traces were not sent"),
            }
        }
    }

    /// Sends batches over the connections of this process, from whatever thread they come.
    #[derive(Debug)]
    struct Client {
        client: reqwest::Client,
        runtime: Handle,
    }

    type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

    impl HttpClient for Client {
        fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Answer<'b>
        where
            'a: 'b,
            Self: 'b,
        {
            let client = self.client.clone();
            // Whoever waits has no reactor of its own.
            let sending = self.runtime.spawn(async move {
                let answer = client.execute(request.try_into()?).await?;
                let status = answer.status();
                let mut response = Response::new(answer.bytes().await?);
                *response.status_mut() = status;
                Ok::<_, reqwest::Error>(response)
            });
            Box::pin(async move { Ok(sending.await??) })
        }
    }
}
