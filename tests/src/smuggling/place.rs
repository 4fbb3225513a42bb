//! Where proxies as they are play the corpus: recorders in a pod, a proxy on the gateway's node, clients beyond it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use anyhow::{Context, Result};

use super::{Case, Outcome, Recorder, Table, connect, corpus};
use crate::lab::{Endpoint, Keep, Manifests, World, address, gateway, service, slice};

/// Cases that run beside each other, each at a port and with a backend of its own.
pub const TABLES: u16 = 8;
/// Of the recorders, from this one on.
const RECORDER: u16 = 9000;

pub struct Place {
    pub world: World,
    recorders: Vec<Recorder>,
}

impl Place {
    pub fn new() -> Result<Place> {
        let world = World::new(Keep::UntilDrop)?;
        let bind = |i| world.pods[0].enter(|| TcpListener::bind(("0.0.0.0", RECORDER + i)));
        let recorders = (0..TABLES).map(|i| Recorder::start(bind(i)?)).collect::<io::Result<_>>();
        let recorders = recorders.context("cannot start the recorders")?;
        Ok(Place { world, recorders })
    }

    /// Of each table.
    pub fn backends() -> [SocketAddr; TABLES as usize] {
        std::array::from_fn(|i| SocketAddr::new(address::POD_1[0], RECORDER + i as u16))
    }

    /// For Sluice: a listener a table, from this port on, at the Gateway's address.
    pub fn manifests(first: u16) -> Result<Manifests> {
        let manifests = Manifests::new()?;
        let names: Vec<String> = (0..TABLES).map(|i| format!("table-{i}")).collect();
        let listeners: Vec<_> = names.iter().zip(first..).map(|(name, port)| (name.as_str(), "HTTP", port)).collect();
        let mut documents = vec![gateway("edge", &[&address::GATEWAY[0].to_string()], &listeners)];
        for (name, backend) in names.iter().zip(Place::backends()) {
            let port = backend.port();
            documents.extend([
                format!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
                     parentRefs: [{{name: edge, sectionName: {name}}}]\n  rules:\n  - backendRefs: [{{name: {name}, port: {port}}}]\n"
                ),
                service(name, "TCP", port),
                slice(name, "TCP", port, &[Endpoint::ready(backend.ip())]),
            ]);
        }
        manifests.write("smuggling.yaml", &documents)?;
        Ok(manifests)
    }

    /// Plays all cases at a proxy that has a port for each table from `first` on, and from `first_h2` on for HTTP/2 by prior knowledge.
    pub fn play(&self, at: IpAddr, first: u16, first_h2: u16) -> Result<Vec<(Case, Outcome)>> {
        let cases = corpus()?;
        let part = cases.len().div_ceil(self.recorders.len());
        let tables = cases.chunks(part).zip(&self.recorders).zip(0..);
        let played = std::thread::scope(|scope| {
            let tables: Vec<_> = tables
                .map(|((cases, recorder), i)| {
                    let target = |first| SocketAddr::new(at, first + i);
                    let from = move |target| move || self.world.client.enter(|| connect(target));
                    let (plain, h2) = (from(target(first)), from(target(first_h2)));
                    scope.spawn(move || {
                        let table = Table { recorder, connect: &plain, connect_h2: &h2 };
                        let play = |case: &Case| Ok((case.clone(), table.play(case)?));
                        cases.iter().map(play).collect::<io::Result<Vec<_>>>()
                    })
                })
                .collect();
            let join = |table: std::thread::ScopedJoinHandle<'_, io::Result<Vec<_>>>| {
                table.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            tables.into_iter().map(join).collect::<io::Result<Vec<_>>>()
        });
        Ok(played.context("no connection to the proxy")?.into_iter().flatten().collect())
    }
}
