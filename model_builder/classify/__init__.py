"""The classifier: data, teacher, distillation, conversion, assessment, package; a file a stage."""
