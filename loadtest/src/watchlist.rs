//! Which client watches what.

use clap::ValueEnum;

/// How the topics of the clients' watchlists are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Client i watches the topics i, i+1, i+2 … (round and round): every topic has as many clients
    Contiguous,
    /// Every topic is as likely as any other
    Uniform,
    /// The topic of rank r is drawn 1/r as often as the first: a few topics are watched by nearly all
    Zipf,
}

/// Draws watchlists of `per_client` different topics out of `topics`, sorted.
#[derive(Debug)]
pub struct Watchlists {
    shape: Shape,
    topics: u32,
    per_client: u32,
    random: fastrand::Rng,
    /// For Zipf: the sum of 1/r up to each rank.
    cumulated: Vec<f64>,
    next_client: u32,
}

impl Watchlists {
    /// The same seed draws the same lists.
    pub fn new(shape: Shape, topics: u32, per_client: u32, seed: u64) -> Self {
        let mut sum = 0.0;
        let cumulated = match shape {
            Shape::Zipf => (1..=topics)
                .map(|rank| {
                    sum += 1.0 / f64::from(rank);
                    sum
                })
                .collect(),
            _ => Vec::new(),
        };
        Self {
            shape,
            topics,
            per_client: per_client.min(topics),
            random: fastrand::Rng::with_seed(seed),
            cumulated,
            next_client: 0,
        }
    }

    fn draw(&mut self) -> u32 {
        if self.shape == Shape::Uniform {
            return self.random.u32(..self.topics);
        }
        let total = self.cumulated.last().copied().unwrap_or(0.0);
        let at = self.random.f64() * total;
        let rank = self.cumulated.partition_point(|sum| *sum <= at);
        u32::try_from(rank).map_or(0, |rank| rank.min(self.topics - 1))
    }

    /// Draws until all are different. A list that is a large part of all topics would draw long for
    /// the last ones, so after many vain draws the next free topic is taken.
    fn draw_different(&mut self) -> Vec<u32> {
        /// Vain draws before the next free topic is taken.
        const PATIENCE: u32 = 64;
        let mut list: Vec<u32> = Vec::new();
        while list.len() < self.per_client as usize {
            let mut topic = self.draw();
            let mut vain = 0;
            let at = loop {
                match list.binary_search(&topic) {
                    Err(at) => break at,
                    Ok(_) if vain < PATIENCE => topic = self.draw(),
                    Ok(_) => topic = (topic + 1) % self.topics,
                }
                vain += 1;
            };
            list.insert(at, topic);
        }
        list
    }
}

impl Iterator for Watchlists {
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        let client = self.next_client;
        self.next_client = client.wrapping_add(1);
        if self.shape != Shape::Contiguous {
            return Some(self.draw_different());
        }
        let mut list: Vec<u32> = (0..self.per_client)
            .map(|step| (client % self.topics + step) % self.topics)
            .collect();
        list.sort_unstable();
        Some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(shape: Shape, topics: u32, per_client: u32, clients: usize) -> Vec<usize> {
        let mut watched = vec![0; topics as usize];
        for list in Watchlists::new(shape, topics, per_client, 7).take(clients) {
            assert_eq!(list.len(), per_client as usize);
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
            for topic in list {
                watched[topic as usize] += 1;
            }
        }
        watched
    }

    #[test]
    fn contiguous_lists_watch_every_topic_alike() {
        assert_eq!(watched(Shape::Contiguous, 20, 5, 40), [10; 20]);
        assert_eq!(watched(Shape::Contiguous, 5, 5, 3), [3; 5]);
        assert_eq!(watched(Shape::Contiguous, 1, 1, 9), [9]);
    }

    #[test]
    fn uniform_lists_are_even_and_repeatable() {
        let even = watched(Shape::Uniform, 10, 3, 1_000);
        assert!(even.iter().all(|n| (200..400).contains(n)), "{even:?}");
        let lists = |seed| Watchlists::new(Shape::Uniform, 99, 9, seed).take(50);
        assert!(lists(1).eq(lists(1)));
        assert!(lists(1).ne(lists(2)));
    }

    #[test]
    fn zipf_lists_watch_the_first_topics_most() {
        let steep = watched(Shape::Zipf, 100, 1, 10_000);
        assert!(
            steep[0] > steep[1] && steep[1] > steep[5] && steep[5] > steep[60],
            "{steep:?}"
        );
        // A list of all topics ends, however seldom the last ones are drawn.
        assert_eq!(watched(Shape::Zipf, 50, 50, 2), [2; 50]);
    }
}
