// Holds the custom resources in a YAML stream on standard input against the schemas of their operators. Prints the kinds that it
// checked, one a line; ends with 1 where one does not fit.
import { readFileSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import { ScaledObject, TriggerAuthentication } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { PrometheusRule, ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const kinds = { ScaledObject, TriggerAuthentication, PrometheusRule, ServiceMonitor };
for (const document of parseAllDocuments(readFileSync(0, "utf8"))) {
  const resource = document.toJS();
  const Kind = kinds[resource?.kind];
  if (!Kind) continue;
  try {
    new Kind(resource).validate();
    console.log(resource.kind);
  } catch (problem) {
    console.error(`${resource.kind} ${resource.metadata?.name}: ${problem.message}`);
    process.exitCode = 1;
  }
}
