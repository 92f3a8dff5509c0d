// Where the server is that these tests talk to, and what it is asked; see tests/test_node_clients.py.

export const baseURL = `${process.env.OCTAVO_URL}/v1`;
export const apiKey = process.env.OCTAVO_KEY;
export const model = process.env.OCTAVO_MODEL;
export const question = "What is the capital of France?";
