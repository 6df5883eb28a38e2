//! Who watches which topics, read at a scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Subscribers by topic at the moment of a scrape.
#[derive(Debug)]
pub struct TopicSubscribers {
    /// The topics with the most subscribers.
    pub named: Vec<(String, u64)>,
    /// Subscribers of all other topics together.
    pub others: u64,
    /// Topics known to the node.
    pub topics: usize,
    /// Names that clients asked for and that no bar came for.
    pub placeholders: usize,
}

impl Collector for TopicSubscribers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, count) in [
            ("barcast_topics", "Topics known to this node.", self.topics),
            (
                "barcast_placeholders",
                "Names that clients asked for and that no bar came for.",
                self.placeholders,
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let mut family = encoder.encode_descriptor(
            "barcast_topic_subscribers",
            "Subscribers of the topics that have the most; the rest are under others.",
            None,
            MetricType::Gauge,
        )?;
        let others = ("others".to_owned(), self.others);
        for (topic, count) in self.named.iter().chain([&others]) {
            let label = [("topic", topic.as_str())];
            let gauge = ConstGauge::new(i64::try_from(*count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&label)?)?;
        }
        Ok(())
    }
}
