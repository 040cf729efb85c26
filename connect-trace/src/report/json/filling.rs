//! The routes that fill up as an object of JSON. docs/output.md defines the fields.

use std::collections::HashMap;

use serde::Serialize;

use super::route_ports::{Held, HolderObject};
use crate::{
    sockets::PortUse,
    stats::{
        filling::{Filling, FillingRoute},
        forecast::{Forecast, Outlook},
    },
};

/// Maximum number of holders of a route.
const MOST_HOLDERS: usize = 100;

/// The routes that fill up.
#[derive(Serialize)]
pub(super) struct FillingObject<'a> {
    routes: Vec<RouteObject<'a>>,
    more: u64,
    dropped: u64,
}

#[derive(Serialize)]
struct RouteObject<'a> {
    netns: Option<u32>,
    source_address: String,
    destination_address: String,
    destination_port: u16,
    low: u16,
    high: u16,
    ports: u32,
    open: u32,
    time_wait: u32,
    listener: u32,
    reserved: u32,
    free: u32,
    holders: Vec<HolderObject>,
    more_holders: u64,
    unknown: Held,
    records_alone: Option<&'a str>,
    forecast: ForecastObject,
}

#[derive(Serialize)]
struct ForecastObject {
    seen_s: u32,
    opens_per_s: f64,
    closes_per_s: f64,
    second_pass: Option<OutlookObject>,
    exhausted: OutlookObject,
}

#[derive(Serialize)]
struct OutlookObject {
    seconds: Option<f64>,
    at_least: Option<f64>,
    at_most: Option<f64>,
    unpredicted: Option<&'static str>,
}

impl<'a> FillingObject<'a> {
    /// Returns the object of a report.
    pub(super) fn of(filling: &'a Filling) -> Self {
        Self {
            routes: filling
                .routes
                .iter()
                .map(|route| RouteObject::of(route, &filling.cgroups))
                .collect(),
            more: filling.more,
            dropped: filling.dropped,
        }
    }
}

impl<'a> RouteObject<'a> {
    fn of(filling: &'a FillingRoute, cgroups: &HashMap<u64, String>) -> Self {
        let ports = &filling.ports;
        let counts = ports.map.all_counts();
        Self {
            netns: ports.route.netns,
            source_address: ports.route.source.to_string(),
            destination_address: ports.route.destination.ip().to_string(),
            destination_port: ports.route.destination.port(),
            low: ports.range.low,
            high: ports.range.high,
            ports: counts.total(),
            open: counts.of(PortUse::Open),
            time_wait: counts.of(PortUse::TimeWait),
            listener: counts.of(PortUse::Listener),
            reserved: counts.of(PortUse::Reserved),
            free: counts.of(PortUse::Free),
            holders: ports
                .holders
                .iter()
                .take(MOST_HOLDERS)
                .map(|held| HolderObject::of(&held.holder, held.ports, cgroups))
                .collect(),
            more_holders: ports.holders.len().saturating_sub(MOST_HOLDERS) as u64,
            unknown: ports.unknown.into(),
            records_alone: filling.records_alone.as_deref(),
            forecast: ForecastObject::of(&filling.forecast),
        }
    }
}

impl ForecastObject {
    fn of(forecast: &Forecast) -> Self {
        Self {
            seen_s: forecast.seen_s,
            opens_per_s: forecast.opens_per_s,
            closes_per_s: forecast.closes_per_s,
            second_pass: forecast.second_pass.map(OutlookObject::of),
            exhausted: OutlookObject::of(forecast.exhausted),
        }
    }
}

impl OutlookObject {
    fn of(outlook: Outlook) -> Self {
        let prediction = outlook.prediction();
        let reached = (outlook == Outlook::Reached).then_some(0.0);
        Self {
            seconds: outlook.seconds(),
            at_least: prediction.map(|of| of.at_least).or(reached),
            at_most: prediction.map(|of| of.at_most).or(reached),
            unpredicted: match outlook {
                Outlook::Unpredicted(reason) => Some(reason.name()),
                Outlook::Reached | Outlook::In(_) => None,
            },
        }
    }
}
