"""Networks: the Half-Huber ReLU, the pre-activation ResNet, and the Classifier with its file format."""
