import openai

client = openai.Client(base_url="http://localhost:8080/v1", api_key="EMPTY")

# 文本嵌入调用
response = client.embeddings.create(
    model="Qwen3-Embedding-4B",
    input="How are you today?",
)
print(response.data[0].embedding[:5])  # 输出前5维向量
