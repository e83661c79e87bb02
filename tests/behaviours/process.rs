//! The process: status, arguments, environment, user, what it inherits.

use serde_json::json;
use tests::{Place, subject};

subject! {
    both: exit_status_is_passed_on;
}

fn exit_status_is_passed_on(place: &Place) {
    for code in [0, 1, 42] {
        place.run(&place.bundle().sh(&format!("exit {code}"))).exits(code);
    }
    let _ = json!(1);
}
