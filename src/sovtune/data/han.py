"""Han characters that tell simplified from traditional Chinese, and Japanese from both."""

from __future__ import annotations

import re

# Characters that exist in one standard only; pairs of frequent ones, simplified above traditional.
_HANS_ONLY = (
    "们这来时国会对说为发学过见头车马门问间东长开关话语请谢让认识读书写听课习师爱亲欢乐给经济统结级约"
    "纪终红绿线组织细练"
    "义务业产动劳员园图团块场坏报护担拥择择据损换无旧显术机权条杂极构枪标样树桥检测满漏灭灯点热爷独狮"
    "猫现环电画疗监盖盘着种称"
    "积稳穷竞笔简类粮紧纸绍绝续维综网职联肃肠胜脑脚脱节艺药营获虽补装规视觉订计讨训议讯记讲许论设访证"
    "评词译试诗详误"
    "贝负财责败货质购贵费资赛赶跃转轮软轻载较输边达迁运还进远连选递遗邮邻郑针钟钢钱铁银错键镇闭闲闻队"
    "阳阴阵阶际陆陈险随难雾静韩页项顺须顾预领频题颜额风飞饭饮馆驱验鱼鲜鸟鸡麦黄齐龙"
    "残罚侵扰剥夺诉执违释罪狱个宪条约护听证审判独须仅况凭扩张减赔偿惩订严厉盗贼墙垒宁尽"
)
_HANT_ONLY = (
    "們這來時國會對說為發學過見頭車馬門問間東長開關話語請謝讓認識讀書寫聽課習師愛親歡樂給經濟統結級約"
    "紀終紅綠線組織細練"
    "義務業產動勞員園圖團塊場壞報護擔擁擇據損換無舊顯術機權條雜極構槍標樣樹橋檢測滿滅燈點熱爺獨獅貓現"
    "環電畫療監蓋盤種稱"
    "積穩窮競筆簡類糧緊紙紹絕續維綜網職聯肅腸勝腦腳脫節藝藥營獲雖補裝規視覺訂計討訓議訊記講許論設訪證"
    "評詞譯試詩詳誤"
    "貝負財責敗貨質購貴費資賽趕躍轉輪軟輕載較輸邊達遷運還進遠連選遞遺郵鄰鄭針鐘鋼錢鐵銀錯鍵鎮閉閒聞隊"
    "陽陰陣階際陸陳險隨難霧靜韓頁項順須顧預領頻題顏額風飛飯飲館驅驗魚鮮鳥雞麥黃齊龍"
    "殘罰侵擾剝奪訴執違釋罪獄個憲條約護聽證審判獨須僅況憑擴張減賠償懲訂嚴厲盜賊牆壘寧盡"
)
_HANS = re.compile(f"[{''.join(set(_HANS_ONLY) - set(_HANT_ONLY))}]")
_HANT = re.compile(f"[{''.join(set(_HANT_ONLY) - set(_HANS_ONLY))}]")
# Kanji and signs of Japanese that neither Chinese standard uses.
USED_IN_JAPANESE_ONLY = re.compile("[々〆込畑峠辻働円駅気売読対図広転伝単厳戦続検様権変価仏払]")


def han_variant(text: str) -> str | None:
    """``Hans`` or ``Hant`` by the characters that only one standard has; None when neither leads."""
    simplified, traditional = len(_HANS.findall(text)), len(_HANT.findall(text))
    if simplified == traditional:
        return None
    return "Hans" if simplified > traditional else "Hant"
