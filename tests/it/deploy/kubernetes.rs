//! The manifests for Kubernetes.

use std::process::Command;

use serde_json::{Value, json};

use super::tools::{self, skip, succeed, tool};
use super::{drain_seconds, files, in_project, make_secrets, read, yaml};

/// Releases of Kubernetes between which the manifests are to be good, the oldest and the newest.
const RELEASES: [&str; 2] = ["1.30", "1.37"];

fn deployment() -> Value {
    yaml("deploy/kubernetes/base/deployment.yaml").remove(0)
}

/// What a container is told under a name: its value, or where that is from.
fn variable(container: &Value, name: &str) -> Value {
    let variables = container["env"].as_array().unwrap();
    let found = variables.iter().find(|variable| variable["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no variable {name}"));
    found
        .get("value")
        .unwrap_or(&found["valueFrom"]["secretKeyRef"]["key"])
        .clone()
}

/// Lays the project's `deploy` into a folder, with secrets where the trial wants them.
fn copy_with_secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for path in files("deploy") {
        let copy = folder.path().join(&path);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(in_project(&path), copy).unwrap();
    }
    make_secrets(&folder.path().join("deploy/kubernetes/overlays/trial/secrets"));
    folder
}

#[test]
fn the_deployment_is_the_one_of_the_mission() {
    let deployment = deployment();
    let pod = &deployment["spec"]["template"];
    let container = &pod["spec"]["containers"][0];

    assert_eq!(deployment["apiVersion"], "apps/v1");
    assert_eq!(deployment["metadata"]["name"], "orchestration-runtime");
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"],
        json!({ "app": "orchestration" })
    );
    assert_eq!(pod["metadata"]["labels"]["app"], "orchestration");
    assert_eq!(container["name"], "orchestration");
    assert!(
        container["image"]
            .as_str()
            .unwrap()
            .starts_with("waooaw/orchestration:")
    );
    assert_eq!(variable(container, "WORKER_POOL_SIZE"), "10");
    assert_eq!(variable(container, "TASK_QUEUE_MAX_SIZE"), "1000");
    assert_eq!(
        container["resources"]["limits"],
        json!({ "memory": "2Gi", "cpu": "1000m" })
    );
}

#[test]
fn a_pod_has_no_root_no_rights_no_volume_and_nothing_to_write_to() {
    for (path, has_volume) in [
        ("deploy/kubernetes/base/deployment.yaml", false),
        ("deploy/kubernetes/overlays/trial/redis.yaml", true),
    ] {
        let workloads = yaml(path);
        let workload = workloads
            .iter()
            .find(|one| one["spec"]["template"].is_object())
            .unwrap();
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];

        assert_eq!(pod["automountServiceAccountToken"], false, "{path}");
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{path}");
        assert!(pod["securityContext"]["runAsUser"].as_u64().unwrap() > 0, "{path}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{path}"
        );
        let security = json!({
            "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }
        });
        assert_eq!(container["securityContext"], security, "{path}");
        assert!(container["resources"]["requests"].is_object() && container["resources"]["limits"].is_object());
        assert_eq!(pod.get("volumes").is_some(), has_volume, "{path}");
    }
    let image_user = read("Dockerfile")
        .lines()
        .find_map(|line| line.strip_prefix("USER ").map(str::to_owned));
    let security = deployment()["spec"]["template"]["spec"]["securityContext"].clone();
    let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
    assert_eq!(image_user, Some(user));
}

#[test]
fn a_pod_is_given_longer_than_its_drain_takes() {
    let pod = deployment()["spec"]["template"]["spec"].clone();
    let pause = &pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
    assert_eq!(pause[0], "sleep");
    let pause: u64 = pause[1].as_str().unwrap().parse().unwrap();

    let given = pod["terminationGracePeriodSeconds"].as_u64().unwrap();

    // And some seconds for handing back and for the last answers over HTTP.
    assert!(given >= pause + drain_seconds() + 5, "{given} s");
}

#[test]
fn only_readiness_depends_on_redis() {
    let container = deployment()["spec"]["template"]["spec"]["containers"][0].clone();

    for (probe, path) in [
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(
            container[probe]["httpGet"],
            json!({ "path": path, "port": "http" }),
            "{probe}"
        );
    }
    assert_eq!(container["ports"][0], json!({ "name": "http", "containerPort": 8001 }));
    assert_eq!(variable(&container, "WAOOAW_HTTP__ADDR"), "0.0.0.0:8001");
}

#[test]
fn all_that_selects_replicas_selects_these() {
    let base = |name: &str| yaml(&format!("deploy/kubernetes/base/{name}.yaml")).remove(0);
    let labels = deployment()["spec"]["template"]["metadata"]["labels"].clone();
    let spread = deployment()["spec"]["template"]["spec"]["topologySpreadConstraints"].clone();
    let monitor = yaml("deploy/kubernetes/components/monitoring/service-monitor.yaml").remove(0);

    let selectors = [
        base("service")["spec"]["selector"].clone(),
        base("pod-disruption-budget")["spec"]["selector"]["matchLabels"].clone(),
        base("network-policy")["spec"]["podSelector"]["matchLabels"].clone(),
        spread[0]["labelSelector"]["matchLabels"].clone(),
        spread[1]["labelSelector"]["matchLabels"].clone(),
    ];

    for selector in selectors {
        let wanted = selector.as_object().unwrap();
        assert!(!wanted.is_empty());
        for (name, value) in wanted {
            assert_eq!(&labels[name], value);
        }
    }
    // The monitor selects the service, by the service's own labels.
    assert_eq!(
        monitor["spec"]["selector"]["matchLabels"],
        base("service")["metadata"]["labels"]
    );
    assert_eq!(
        monitor["spec"]["endpoints"][0]["port"],
        base("service")["spec"]["ports"][0]["name"]
    );
    assert_eq!(
        monitor["spec"]["endpoints"][0]["relabelings"][0]["replacement"],
        "waooaw"
    );
    for scaler in ["hpa/horizontal-pod-autoscaler", "keda/scaled-object"] {
        let scaler = yaml(&format!("deploy/kubernetes/components/{scaler}.yaml")).remove(0);
        assert_eq!(
            scaler["spec"]["scaleTargetRef"]["name"],
            deployment()["metadata"]["name"]
        );
        let least = scaler["spec"]
            .get("minReplicas")
            .or(scaler["spec"].get("minReplicaCount"));
        assert_eq!(least, Some(&deployment()["spec"]["replicas"]));
    }
}

#[test]
fn every_key_of_the_secret_is_in_the_example_and_in_what_the_script_makes() {
    let example = yaml("deploy/kubernetes/base/secret.example.yaml").remove(0);
    let folder = tempfile::tempdir().unwrap();
    make_secrets(folder.path());
    let made = std::fs::read_to_string(folder.path().join("kubernetes.env")).unwrap();
    let container = deployment()["spec"]["template"]["spec"]["containers"][0].clone();
    let monitor = yaml("deploy/kubernetes/components/monitoring/service-monitor.yaml").remove(0);
    let keda = yaml("deploy/kubernetes/components/keda/scaled-object.yaml").remove(1);

    let keys = [
        variable(&container, "REDIS_URL"),
        variable(&container, "WAOOAW_HTTP__TOKENS"),
        monitor["spec"]["endpoints"][0]["authorization"]["credentials"]["key"].clone(),
        keda["spec"]["secretTargetRef"][0]["key"].clone(),
    ];

    for key in keys {
        let key = key.as_str().unwrap();
        assert!(example["stringData"][key].is_string(), "{key}");
        assert!(made.lines().any(|line| line.starts_with(&format!("{key}="))), "{key}");
    }
    // The token that Prometheus and KEDA show is one of those that replicas know, and no stronger than it must be.
    let tokens: Value = serde_json::from_str(example["stringData"]["http-tokens"].as_str().unwrap()).unwrap();
    let reader = json!({ "token": example["stringData"]["read-token"], "role": "read" });
    assert!(tokens.as_array().unwrap().contains(&reader));
}

#[test]
fn the_handlers_that_come_by_a_config_map_are_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("config")).unwrap();
    let handlers = in_project("deploy/kubernetes/components/handlers/handlers.toml");
    std::fs::copy(handlers, folder.path().join("config/production.toml")).unwrap();

    let mut check = Command::new(env!("CARGO_BIN_EXE_waooaw"));
    let check = check
        .args(["config", "check"])
        .env("WAOOAW_ENV", "production")
        .current_dir(folder.path());
    let shown = succeed(check, None);

    assert!(shown.contains("handlers.quote.url"), "{shown}");
}

#[test]
fn every_overlay_is_put_together_and_fits_the_schemas() {
    let folder = copy_with_secrets();
    let tops = ["base", "overlays/production", "overlays/trial"];
    let mut built = Vec::new();
    if let Some(kustomize) = tool(
        "kustomize",
        "how the manifests are put together; each is checked by itself",
    ) {
        for top in tops {
            let mut command = Command::new(&kustomize);
            let text = succeed(command.arg(folder.path().join("deploy/kubernetes").join(top)), None);
            built.push((top.to_owned(), text));
        }
        let text_of = |top: &str| &built.iter().find(|(name, _)| name == top).unwrap().1;
        // Who scales must not be contradicted by each apply, and who does not gets what the mission says.
        let replicas = |top: &str| {
            let all = super::documents(text_of(top));
            let one = all.iter().find(|one| one["kind"] == "Deployment").unwrap();
            one["spec"].get("replicas").cloned()
        };
        assert_eq!(replicas("base"), Some(json!(3)));
        assert_eq!(replicas("overlays/trial"), Some(json!(3)));
        assert_eq!(replicas("overlays/production"), None);
        let all = super::documents(text_of("overlays/production"));
        let scaled = all.iter().find(|one| one["kind"] == "ScaledObject").unwrap();
        let service = all.iter().find(|one| one["kind"] == "Service").unwrap();
        let address = format!(
            "http://{}.{}.svc.cluster.local:{}/v1/scale",
            service["metadata"]["name"].as_str().unwrap(),
            service["metadata"]["namespace"].as_str().unwrap(),
            service["spec"]["ports"][0]["port"]
        );
        assert_eq!(scaled["spec"]["triggers"][0]["metadata"]["url"], json!(address));
    } else {
        for path in files("deploy/kubernetes") {
            let is_manifest = !path.ends_with("kustomization.yaml") && !path.ends_with("handlers.toml");
            if is_manifest {
                built.push((path.clone(), read(&path)));
            }
        }
    }
    let example = "deploy/kubernetes/base/secret.example.yaml";
    built.push((example.to_owned(), read(example)));
    let hpa = "deploy/kubernetes/components/hpa/horizontal-pod-autoscaler.yaml";
    built.push((hpa.to_owned(), read(hpa)));

    if let Some(validate) = tool("kubernetes-validate", "manifests against the schemas of Kubernetes") {
        for (number, (name, text)) in built.iter().enumerate() {
            let file = folder.path().join(format!("{number}.yaml"));
            std::fs::write(&file, text).unwrap();
            for release in RELEASES {
                let mut check = Command::new(&validate);
                let output = tools::run(check.args(["--strict", "-k", release]).arg(&file), None);
                let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{name}, Kubernetes {release}:\n{said}");
            }
        }
    }
    let node = tools::folder().join("node/custom-resources.mjs");
    if node.exists() {
        let all = built
            .iter()
            .map(|(_, text)| text.as_str())
            .collect::<Vec<_>>()
            .join("\n---\n");
        let checked = succeed(Command::new("node").arg(node), Some(&all));
        for kind in [
            "ScaledObject",
            "TriggerAuthentication",
            "PrometheusRule",
            "ServiceMonitor",
        ] {
            assert!(checked.lines().any(|line| line == kind), "{kind}: {checked}");
        }
    } else {
        skip("no schemas of custom resources (`make deploy-tools` gets them): not tried: KEDA, Prometheus operator");
    }
}
