mod dtype;
