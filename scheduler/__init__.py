"""What runs next: requests, sequences, policy and the step coroutine. Torch-free."""
