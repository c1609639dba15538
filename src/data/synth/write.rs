//! The generated data set on disk, in VOC's layout.

use std::fmt::Write as _;
use std::path::Path;

use rayon::prelude::*;

use super::{CLASSES, Scene, SynthOptions, render};
use crate::Result;
use crate::formats::atomic::write_atomically;
use crate::formats::background::writing_in_background;
use crate::formats::image::write_jpeg;
use crate::formats::label_png::write_labels;

/// JPEG quality of the pictures: artefacts as on photographs, edges intact.
const QUALITY: u8 = 92;

/// Draws `options.images` images and writes them below `output`: `JPEGImages`, `SegmentationClass`,
/// `Annotations`, `classes.txt`, and last the lists `train` and `val` in `ImageSets/Segmentation`, so a
/// folder with lists is complete. Files of the same names are replaced. `progress` is called with 1
/// after each image, from several threads; an error from it ends the work.
///
/// # Errors
/// Options out of range; a folder that cannot be written; whatever `progress` returns.
pub fn generate(
    output: &Path,
    options: &SynthOptions,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<()> {
    options.check()?;
    writing_in_background(|writers| {
        (0..options.images).into_par_iter().try_for_each(|index| {
            let (id, scene) = (id_of(index), render(options, index));
            writers.submit(Box::new(move || {
                write_jpeg(&output.join(format!("JPEGImages/{id}.jpg")), &scene.image, QUALITY)?;
                write_labels(&output.join(format!("SegmentationClass/{id}.png")), &scene.mask)?;
                write_text(&output.join(format!("Annotations/{id}.xml")), &annotation(&id, &scene))?;
                progress(1)
            }))
        })
    })?;
    let names: Vec<&str> = std::iter::once("background").chain(CLASSES).collect();
    write_text(&output.join("classes.txt"), &(names.join("\n") + "\n"))?;
    for (name, val) in [("train", false), ("val", true)] {
        let list: String =
            (0..options.images).filter(|&i| options.is_val(i) == val).map(|i| id_of(i) + "\n").collect();
        let path = output.join(format!("ImageSets/Segmentation/{name}.txt"));
        write_text(&path, &list)?;
    }
    Ok(())
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |w| w.write_all(text.as_bytes()))
}

fn id_of(index: usize) -> String {
    format!("{index:06}")
}

/// VOC's XML: the size, and each object's class and box (pixels counted from 1).
fn annotation(id: &str, scene: &Scene) -> String {
    let mut xml = format!(
        "<annotation>\n  <filename>{id}.jpg</filename>\n  <size>\n    <width>{}</width>\n    \
         <height>{}</height>\n    <depth>3</depth>\n  </size>\n  <segmented>1</segmented>\n",
        scene.image.width, scene.image.height
    );
    for object in &scene.objects {
        let [left, top, right, bottom] = object.bounds.map(|v| v + 1);
        // Writing to a string cannot fail.
        let _ = writeln!(
            xml,
            "  <object>\n    <name>{}</name>\n    <truncated>{}</truncated>\n    <difficult>0</difficult>\n    \
             <bndbox>\n      <xmin>{left}</xmin>\n      <ymin>{top}</ymin>\n      <xmax>{right}</xmax>\n      \
             <ymax>{bottom}</ymax>\n    </bndbox>\n  </object>",
            CLASSES[usize::from(object.class) - 1],
            u8::from(object.truncated),
        );
    }
    xml + "</annotation>\n"
}
