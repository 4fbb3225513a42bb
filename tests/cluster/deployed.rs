//! What `cargo xtask cluster up` and `kubectl apply -k deploy/` leave.

use anyhow::ensure;

use crate::bed::Bed;

#[test]
fn both_nodes_are_ready_and_untainted() {
    let bed = Bed::new();
    bed.wait_for("nodes that take pods", || {
        let taints = bed.kubectl("get nodes -o jsonpath={range.items[*]}{.metadata.name}={.spec.taints};{end}")?;
        ensure!(taints == "node-1=;node-2=;", "nodes and taints: {taints}");
        Ok(())
    });
}

#[test]
fn the_daemon_set_has_an_agent_on_each_node() {
    let bed = Bed::new();
    bed.wait_for("two agents", || {
        let ready = bed.kubectl(
            "get daemonset sluice -n sluice-system -o jsonpath={.status.numberReady}/{.status.desiredNumberScheduled}",
        )?;
        ensure!(ready == "2/2", "{ready} are ready");
        Ok(())
    });
}

#[test]
fn the_agent_runs_with_few_capabilities() {
    let bed = Bed::new();
    let pod = "get daemonset sluice -n sluice-system -o jsonpath={.spec.template.spec.containers[*].securityContext}";
    let context = bed.kubectl(pod).unwrap();
    assert!(!context.contains("privileged\":true") && !context.contains("SYS_ADMIN"), "{context}");
}
