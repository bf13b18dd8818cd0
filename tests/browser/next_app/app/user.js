export const user = {
  id: "u-1",
  email: "ada@example.org",
  name: "Ada",
  image: "https://img.example/ada.png",
  avatar: "https://img.example/ada.png",
  plan: "free",
  createdAt: new Date(0),
  company: "Analytical Engines",
  mrr: 0,
};
