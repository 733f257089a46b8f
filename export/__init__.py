"""The SavedModel: User Profile Network and student with their signatures, warm-up requests and model card."""
