"""Detections in files: what `detect` writes, and what `eval --predictions` reads.

Shape shorthand: N detections of one image.

Written formats (boxes in own pixels, 0-based, half-open, unless said otherwise):
- `jsonl`: an object a line, `{"image": ..., "width": ..., "height": ..., "detections":
  [{"label": ..., "score": ..., "box": [x1, y1, x2, y2]}]}`, or `{"image": ..., "error": ...}`.
- `json`: an array of the same objects.
- `coco`: COCO's results, `[{"image_id", "category_id", "bbox": [x, y, w, h], "score"}]`, with a
  data set's ids, or numbered from 1 with `file_name` and `category_name` in each row and a
  list of images in a second file (`coco_results`).
- `voc`: a folder with `comp4_det_test_CLASS.txt` for each class, a line `STEM score xmin ymin
  xmax ymax` a detection, 1-based with both corners inside (VOC development kit, sec. 8.2).
- `yolo`: a folder with `labels/STEM.txt` for each image, a line `class cx cy w h score` a
  detection, normalised; `classes.txt` names the classes, `images.csv` the images and sizes.
- `csv`: columns `image,label,score,x1,y1,x2,y2`; an image with nothing has a row with its name
  and empty cells, so that it is not lost.

Numbers keep the precision of float32. Only `jsonl` and `json` tell of images that could not
be read, and `voc`, and `coco`'s rows, leave no trace of an image with nothing in it.
"""
