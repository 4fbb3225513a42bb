//! What GatewayClasses and Gateways are told by the SluiceConfigs that they refer to.

use crate::index::{Gateway, GatewayClass, Index, Kind, Name, Parameters, ParametersRef, SLUICE_GROUP};

/// What the class tells its Gateways, or why its `parametersRef` does not hold.
pub fn of_class(index: &Index, class: &GatewayClass) -> Result<Parameters, String> {
    let Some(reference) = &class.parameters else { return Ok(Parameters::default()) };
    let field = "spec.parametersRef";
    known(reference, field)?;
    let Some(namespace) = &reference.namespace else {
        return Err(format!("{field} has no namespace; give it that of {} {}", Kind::SluiceConfig, reference.name));
    };
    follow(index, Name { namespace: namespace.clone(), name: reference.name.clone() }, field)
}

/// What holds for a Gateway: field by field what it is told itself, else what its class is told.
pub fn of_gateway(index: &Index, gateway: &Gateway, class: &Parameters) -> Result<Parameters, String> {
    let Some(reference) = &gateway.parameters else { return Ok(class.clone()) };
    let field = "spec.infrastructure.parametersRef";
    known(reference, field)?;
    let name = Name { namespace: gateway.meta.name.namespace.clone(), name: reference.name.clone() };
    follow(index, name, field).map(|own| own.over(class))
}

/// Whether Sluice knows what it refers to, or why not.
fn known(reference: &ParametersRef, field: &str) -> Result<(), String> {
    let ParametersRef { group, kind, .. } = reference;
    if (&**group, &**kind) == (SLUICE_GROUP, "SluiceConfig") {
        return Ok(());
    }
    let slash = if group.is_empty() { "" } else { "/" };
    Err(format!("{field}: {group}{slash}{kind} is not known to Sluice; refer to a SluiceConfig (group {SLUICE_GROUP})"))
}

fn follow(index: &Index, name: Name, field: &str) -> Result<Parameters, String> {
    match index.config(&name) {
        Some(config) => config.parameters.clone().map_err(|why| format!("SluiceConfig {name}: {why}")),
        None => Err(format!("{field}: there is no SluiceConfig {name}; create it, or correct or remove the reference")),
    }
}
