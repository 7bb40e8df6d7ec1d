"""The classifier: data, teacher, distillation, conversion, assessment, package; a file a stage.

Not here: how a teacher or a student is made: their rooms are below this one.
"""
