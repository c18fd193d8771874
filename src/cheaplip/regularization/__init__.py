"""What is added to the loss: penalties, and the rule that moves their weight."""
