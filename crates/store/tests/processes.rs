//! One directory, several processes: what is conditional has one winner.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod raw;

use raw::{Client, ServedApart};
use std::sync::Barrier;

/// Not a test of its own: what the children run.
#[test]
fn child_serves() {
    raw::serve_if_apart();
}

const ROUNDS: usize = 200;
const PROCESSES: usize = 3;
const RACERS: usize = 12;

/// Lets every client do the same thing at the same moment; what each was answered, and the body that it wanted to be there.
fn race(clients: &mut [Client], each: impl Fn(usize, &mut Client) -> u16 + Sync) -> Vec<u16> {
    let start = Barrier::new(clients.len());
    std::thread::scope(|scope| {
        let (start, each) = (&start, &each);
        let racers: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(number, client)| {
                scope.spawn(move || {
                    start.wait();
                    each(number, client)
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn winner(answers: &[u16], round: usize) -> usize {
    let won: Vec<usize> = (0..answers.len()).filter(|racer| answers[*racer] == 200).collect();
    assert_eq!(won.len(), 1, "round {round} has one winner: {answers:?}");
    assert!(answers.iter().all(|status| matches!(status, 200 | 412)), "round {round}: {answers:?}");
    won[0]
}

fn content(round: usize, racer: usize) -> Vec<u8> {
    format!("round {round} racer {racer} ").repeat(20).into_bytes()
}

/// Begins an upload of one part; its id, and the document that completes it.
fn upload(client: &mut Client, path: &str, body: &[u8]) -> (String, String) {
    let begun = client.call("POST", &format!("{path}?uploads"), "", &[]).unwrap();
    let id = begun.between("UploadId").unwrap();
    let part = client.call("PUT", &format!("{path}?partNumber=1&uploadId={id}"), "", body).unwrap();
    assert_eq!(part.status, 200, "{}", part.text());
    let etag = part.field("etag").unwrap();
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    (id, document)
}

#[test]
fn what_is_conditional_has_one_winner_among_processes() {
    let directory = tempfile::tempdir().unwrap();
    let children: Vec<ServedApart> =
        (0..PROCESSES).map(|_| ServedApart::start("child_serves", directory.path())).collect();
    let mut clients: Vec<Client> = (0..RACERS).map(|racer| Client::new(children[racer % PROCESSES].address)).collect();
    let mut by_process = [0; PROCESSES];
    let mut swapped = None;
    for round in 0..ROUNDS {
        // Its name has no stripe in common with the last one, but the racers of one round all have the same.
        let path = match round % 3 {
            1 => "/sealift/swapped".to_owned(),
            _ => format!("/sealift/round/{round}"),
        };
        let answers = match round % 3 {
            0 => race(&mut clients, |racer, client| {
                client.call("PUT", &path, "if-none-match: *\r\n", &content(round, racer)).unwrap().status
            }),
            1 => {
                let condition = match &swapped {
                    None => "if-none-match: *\r\n".to_owned(),
                    Some(etag) => format!("if-match: {etag}\r\n"),
                };
                race(&mut clients, |racer, client| {
                    client.call("PUT", &path, &condition, &content(round, racer)).unwrap().status
                })
            }
            _ => {
                let uploads: Vec<(String, String)> = clients
                    .iter_mut()
                    .enumerate()
                    .map(|(racer, client)| upload(client, &path, &content(round, racer)))
                    .collect();
                race(&mut clients, |racer, client| {
                    let (id, document) = &uploads[racer];
                    let target = format!("{path}?uploadId={id}");
                    let answer = client.call("POST", &target, "if-none-match: *\r\n", document.as_bytes()).unwrap();
                    answer.status
                })
            }
        };
        let won = winner(&answers, round);
        by_process[won % PROCESSES] += 1;
        for client in &mut clients[..PROCESSES] {
            let there = client.call("GET", &path, "", &[]).unwrap();
            assert_eq!(there.body, content(round, won), "round {round}: every process serves what the winner put");
            if round % 3 == 1 {
                swapped = there.field("etag").map(str::to_owned);
            }
        }
    }
    println!("{ROUNDS} rounds of {RACERS} racers in {PROCESSES} processes, one winner each; by process {by_process:?}");
    children.into_iter().for_each(ServedApart::kill);
}
