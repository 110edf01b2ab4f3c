"""Detect with an exported file and onnxruntime alone: no detkit, no torch.

detkit export run/best.safetensors -o model.onnx --raw --nms
python detect_onnx.py model.onnx photo.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

onnxruntime.set_default_logger_severity(3)  # it warns of thresholds that can be replaced
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
outputs = session.run(["boxes", "scores", "labels"], {"pixels": np.asarray(image)[None]})
for box, score, label in zip(*(output[0] for output in outputs)):
    if score >= 0.3:
        print(names[label], f"{score:.3f}", *(round(float(side), 1) for side in box))
