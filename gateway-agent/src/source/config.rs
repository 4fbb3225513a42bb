//! SluiceConfigs. deploy/base/crd.yaml has the same bounds, so that an API server refuses what is refused here; what it cannot see, such
//! as two blocks of addresses that overlap, shows up in the status of whoever refers to the object.

use std::sync::Arc;

use super::read::{self, Fields, Reader};
use super::yaml::Node;
use crate::addresses::Pool;
use crate::index::{Parameters, ParametersRef, Setting};

/// `spec` of a SluiceConfig.
pub fn spec(reader: &mut Reader, node: &Node) -> Option<Parameters> {
    reader.fields(node, |f| {
        let pool = f.optional("addressPool", pool);
        let mut settings: Vec<Option<Setting>> = vec![
            number(f, "trustedHops", 0, 255).map(Setting::TrustedHops),
            f.optional("acceptProxyProtocol", read::boolean).map(Setting::ProxyProtocol),
            f.optional("drainTime", read::duration).map(Setting::Drain),
            f.within("accessLog", |f| f.optional("requests", requests)),
        ];
        settings.extend(f.within("limits", |f| Some(limits(f))).into_iter().flatten());
        Some(Parameters { pool, settings: settings.into_iter().flatten().collect() })
    })
}

fn limits(f: &mut Fields) -> [Option<Setting>; 10] {
    [
        number(f, "maxConnections", 1, 10_000_000).map(Setting::Connections),
        number(f, "maxHeaderBytes", 1_024, 1 << 20).map(Setting::HeaderBytes),
        number(f, "maxHeaders", 1, 1_000).map(Setting::Headers),
        number(f, "maxUriBytes", 128, 1 << 16).map(Setting::UriBytes),
        f.optional("headerTimeout", read::time).map(Setting::HeaderTime),
        f.optional("bodyIdleTimeout", read::time).map(Setting::BodyIdle),
        f.optional("streamIdleTimeout", read::time).map(Setting::StreamIdle),
        f.optional("idleTimeout", read::time).map(Setting::Idle),
        number(f, "maxStreams", 1, 10_000).map(Setting::Streams),
        number(f, "maxPendingResets", 1, 10_000).map(Setting::PendingResets),
    ]
}

fn pool(reader: &mut Reader, node: &Node) -> Option<Arc<Pool>> {
    let mut block = |r: &mut Reader, n: &Node| {
        let text = read::string(r, n)?;
        let block = text.parse();
        if let Err(why) = &block {
            r.error(n.at, format!("\"{text}\" {why}"));
        }
        block.ok()
    };
    let blocks = read::items(reader, node, &mut block)?.into_vec();
    if blocks.is_empty() {
        reader.error(node.at, "has no addresses; give some, or remove the field");
        return None;
    }
    match Pool::new(blocks) {
        Ok(pool) => Some(pool.into()),
        Err(why) => {
            reader.error(node.at, why.to_string());
            None
        }
    }
}

fn requests(reader: &mut Reader, node: &Node) -> Option<Setting> {
    let text = read::string(reader, node)?;
    let which = text.parse();
    if let Err(known) = &which {
        reader.error(node.at, format!("is \"{text}\"; use {known}"));
    }
    which.ok().map(Setting::AccessLog)
}

fn number<T: TryFrom<i64>>(f: &mut Fields, key: &'static str, least: i64, most: i64) -> Option<T> {
    f.optional(key, |r, n| read::number(r, n, least, most)).and_then(|number| T::try_from(number).ok())
}

/// `parametersRef`. `with_namespace`: that of a GatewayClass, which has none of its own.
pub fn reference(f: &mut Fields, with_namespace: bool) -> Option<ParametersRef> {
    let group = f.required("group", read::text);
    let kind = f.required("kind", read::name);
    let name = f.required("name", read::name);
    let namespace = if with_namespace { f.optional("namespace", read::name) } else { None };
    Some(ParametersRef { group: group?, kind: kind?, namespace, name: name? })
}
