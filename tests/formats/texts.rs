//! Lists, tables of tags and annotations that do not end, as a data set holds them.

use std::path::Path;

use seedwalk::data::{Dataset, DatasetOptions};

use crate::allocator::measured;
use crate::common::Place;
use crate::hostile::{beyond_limits, unclear};

/// Opens a data set with one hostile file in it; what the error says.
fn refused(name: &str, text: &str) -> String {
    let place = Place::with_images(2, 32);
    place.write(name, text);
    let root = place.at("data");
    let tags = name.ends_with(".csv").then(|| place.at(name));
    let split = Some(Path::new("train")).filter(|_| !name.ends_with(".xml")).map(|p| p.display().to_string());
    let options = DatasetOptions { tags, split, ..DatasetOptions::default() };
    let (result, taken) = measured(|| Dataset::open(&root, &options));
    assert_eq!(beyond_limits(&taken, text.len()), None, "{name}");
    let error = result.err().unwrap_or_else(|| panic!("{name}: it was accepted"));
    assert_eq!(unclear(&place.at(name), &error), None, "{name}");
    error.message().to_string()
}

const LIST: &str = "data/ImageSets/Segmentation/train.txt";
const ANNOTATION: &str = "data/Annotations/000001.xml";

#[test]
fn a_list_of_nothing_but_faults() {
    assert!(refused(LIST, &"..\n".repeat(3 << 20)).contains("and 9991 more"));
}

#[test]
fn tags_of_nothing_but_faults() {
    let text: String = (0..1 << 20).map(|i| format!("{i},x\n")).collect();
    assert!(refused("tags.csv", &text).contains("unknown class `x`"));
}

#[test]
fn a_class_of_four_megabytes() {
    assert!(refused("tags.csv", &format!("000001,{}\n", "c".repeat(3000))).contains("unknown class"));
}

#[test]
fn an_element_of_a_million_attributes() {
    let attributes: String = (0..1 << 20).map(|i| format!(" a{i}=''")).take(700_000).collect();
    let text = format!("<annotation><object{attributes}/></annotation>");
    assert!(refused(ANNOTATION, &text[..text.len().min(8 << 20)]).contains("attributes"));
}

#[test]
fn an_annotation_of_a_million_elements_or_levels() {
    let wide = format!("<annotation>{}</annotation>", "<a/>".repeat(1 << 20));
    assert!(!refused(ANNOTATION, &wide).is_empty());
    let deep = format!("<annotation>{}", "<a>".repeat(1 << 20));
    assert!(!refused(ANNOTATION, &deep).is_empty());
}

#[test]
fn entities_that_grow() {
    let text = "<!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;&b;'>]><annotation>&c;</annotation>";
    assert!(refused(ANNOTATION, text).contains("DTD") || refused(ANNOTATION, text).contains("annotation"));
}
