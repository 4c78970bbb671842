// What the pages say, in English and Chinese; the browser's language decides until somebody chooses.

const CHINESE = {
  title: "embedfleet 试验台", key: "API 密钥", keyNote: "密钥只保存在本页内存中，离开页面即消失。",
  queries: "查询", documents: "文档", perLine: "每行一条", model: "模型", instruction: "指令", optional: "可选",
  dimensions: "维度", form: "向量格式", embed: "生成向量", stop: "停止", heat: "余弦相似度",
  heatNote: "行是查询（没有查询时为文档），列是文档。可用方向键逐格查看。", ranking: "最相近的文档", of: "对象", rank: "名次",
  document: "文档", score: "重排分数", rerank: "重排", map: "分布图", mapNote: "这些向量差异最大的两个方向（主成分）。",
  sent: "实际发送的内容", requests: "应答", request: "请求", texts: "文本数", tokenCount: "词元数", known: "来自缓存", seconds: "毫秒",
  own: "其中网关耗时", space: "向量空间", code: "对应的代码", with: "使用", copy: "复制",
  "All {0} dimensions": "全部 {0} 维", "{0} dimensions, {1}": "{0} 维，{1}",
  "{0} texts, {1} tokens, {2} ms; {3} from the cache": "{0} 条文本，{1} 个词元，{2} 毫秒；{3} 条来自缓存",
  "{0} of {1} texts": "{1} 条文本中的 {0} 条", "Stopped.": "已停止。", "There is nothing to embed.": "没有要处理的文本。",
  "This service asks for a key.": "此服务需要密钥。", "{0}: {1}": "{0}：{1}",
  "row {0}, column {1}: {2} in full, {3} here": "第 {0} 行第 {1} 列：完整向量 {2}，当前 {3}",
  "{0} of the ten nearest documents are the same; cosines differ by {1} on average.": "最近的十个文档中有 {0} 相同；余弦平均相差 {1}。",
  "Only the first {0} rows and {1} columns are drawn.": "仅绘制前 {0} 行、{1} 列。", "query {0}": "查询 {0}", "document {0}": "文档 {0}",
  "{0} tokens: ": "{0} 个词元：", "Copied.": "已复制。", "Selected; the browser copies only on HTTPS or localhost.": "已选中；浏览器仅允许在 HTTPS 或 localhost 上复制。",
  "No answer: {0}": "没有应答：{0}", "full": "完整", "this form": "当前格式", "No model is served here yet.": "这里还没有可用的模型。",
  "Map of {0} texts: queries are squares, documents dots.": "{0} 条文本的分布：方块为查询，圆点为文档。",
  docsTitle: "embedfleet API", playground: "试验台", "document of the API": "OpenAPI 文档", operations: "接口",
  fleetTitle: "embedfleet 集群", pools: "资源池", decisions: "最近的扩缩决定", cancel: "取消", confirm: "确认", "Pause scaling": "暂停扩缩", "Resume scaling": "恢复扩缩",
  "Set replicas": "固定副本数", replica: "副本", state: "状态", for: "持续", "tokens/s": "词元/秒", "in flight": "处理中", engine: "引擎", address: "地址", reason: "原因", time: "时间", replicas: "副本数",
  "{0}: {1}, {2} requests in flight": "{0}：{1}，{2} 个请求处理中", "cache: {0} of {1} texts known": "缓存：{1} 条文本中命中 {0}", "Redis {0}": "Redis {0}",
  connected: "已连接", unreachable: "无法连接", "being tried again": "正在重试",
  "{0} of {1} replicas ready": "{1} 个副本中 {0} 个就绪", "{0} tokens/s arriving, {1} in flight; queued: {2}": "每秒到达 {0} 词元，处理中 {1}；排队：{2}",
  "Pause the scaling of {0}? The fleet stays as large as it is.": "暂停 {0} 的自动扩缩？副本数将保持不变。", "Let {0} scale by itself again?": "让 {0} 恢复自动扩缩？",
  "by hand": "手动操作", Drain: "排空", Readmit: "恢复接入", "Let {0} back into traffic?": "让 {0} 重新接收流量？",
  "{0} is the only ready replica of {1}. Drain it all the same? Requests will wait.": "{0} 是 {1} 唯一就绪的副本。仍要排空？请求将会等待。",
  "Drain {0}? It finishes what it has and gets nothing new until it is readmitted.": "排空 {0}？它会完成手上的工作，恢复接入之前不再接收新的文本。",
  "Hit rate of the cache in the last {0}; now {1}": "最近 {0} 的缓存命中率；当前 {1}",
  batches: "批处理任务", batch: "任务", failed: "失败", endpoint: "接口", created: "创建时间",
  "Keep {0} at how many replicas?": "将 {0} 固定为多少个副本？", "No answer since {0} s: {1}": "已 {0} 秒没有应答：{1}", "not scaled": "未启用扩缩", "interactive": "交互", "bulk": "批量",
};

let chinese = (navigator.language || "").toLowerCase().startsWith("zh");

export const say = (words, ...values) =>
  ((chinese && CHINESE[words]) || words).replace(/\{(\d)\}/g, (_, number) => String(values[number]));

const english = new Map();

export const translate = (then) => {
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-say]")) {
    if (!english.has(element)) english.set(element, element.textContent);
    element.textContent = (chinese && CHINESE[element.dataset.say]) || english.get(element);
  }
  const button = document.getElementById("language");
  button.textContent = chinese ? "English" : "中文";
  button.lang = chinese ? "en" : "zh";
  button.onclick = () => { chinese = !chinese; translate(then); };
  then();
};
