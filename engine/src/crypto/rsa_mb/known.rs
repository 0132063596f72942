//! Signatures whose verdicts are known, for lanes that are to spare.

use std::sync::LazyLock;

use super::{Operand, Reciprocal, Size};
use crate::crypto::digest;
use crate::crypto::ecdsa::hex_literal;
use crate::hash::{Digest, HashAlg};

/// What was signed, with PKCS #1 v1.5 and SHA-256, by keys that were made for this and forgotten.
const MESSAGE: &[u8] = b"a known answer";

/// A signature and the right verdict on it.
pub(crate) struct Known {
    modulus: &'static [u8],
    reciprocal: Reciprocal,
    signature: Vec<u8>,
    /// SHA-256 of what it is, or is not, a signature over.
    pub(crate) digest: Digest,
}

impl Known {
    pub(crate) fn operand(&self) -> Operand<'_> {
        Operand {
            modulus: self.modulus,
            reciprocal: &self.reciprocal,
            signature: &self.signature,
        }
    }
}

/// A valid signature of this size, and the same with one bit changed; `None` when a library failed.
pub(crate) fn answers(size: Size) -> Option<&'static [Known; 2]> {
    static ANSWERS: LazyLock<[Option<[Known; 2]>; 3]> = LazyLock::new(|| Size::ALL.map(make));
    let at = Size::ALL.iter().position(|other| *other == size)?;
    ANSWERS.get(at)?.as_ref()
}

fn make(size: Size) -> Option<[Known; 2]> {
    let (modulus, signature): (&'static [u8], &'static [u8]) = match size {
        Size::Bits2048 => (&MODULUS_2048, &SIGNATURE_2048),
        Size::Bits3072 => (&MODULUS_3072, &SIGNATURE_3072),
        Size::Bits4096 => (&MODULUS_4096, &SIGNATURE_4096),
    };
    let reciprocal = Reciprocal::new(size, modulus)?;
    let known = |changed: u8| {
        let mut signature = signature.to_vec();
        if let Some(last) = signature.last_mut() {
            *last ^= changed;
        }
        Known {
            modulus,
            reciprocal: reciprocal.clone(),
            signature,
            digest: digest(HashAlg::Sha256, MESSAGE),
        }
    };
    Some([known(0), known(1)])
}

pub(super) const MODULUS_2048: [u8; 256] = hex_literal(
    b"c628ae5ef593b3a509b5275f15e8a080f9331e8152e9e22b4060112dc0bd19af23137e398f705f02b58a0711\
      739e98ea5196afa817a0c3371628c29f9bb65ea50371ae5a33c58c4f34d1a42b4d74bff0887cee2559fd1a8f\
      dbf533a8bc4f0819370d48b95daf305f17225f8032d431afab41e863daa34ea4256baa9563d8b000b3e20901\
      8f04d69473572bed3876f4a8e80fbdd974c26aeffb17fbfab1c212a3b651f18acfb464f338080bcb1a0ed668\
      2179116dc714f24a117f601dc2ca3e0c7478e0235cbe72c2e2c27b2a67f1e71e8c6891f906e54a63f17086db\
      ae777a2af32b873923b792ea2ee0ee23b65a8a60ce789dc85061a1d1ba4929a98d87387b",
);
pub(super) const SIGNATURE_2048: [u8; 256] = hex_literal(
    b"246412f9e07c1b5aca8630e0b6e316afe28c33a302bd82fc28f044ee8267a458645b69e12baf31ceb3fd4012\
      54ddac8b5e662a175bd07f730acad77ff6e480f9624488cfcde894a25ea4bff96c3e9265d61bbe4fbb79b7c3\
      f1cbe72b75e17d87c51beb594043008148cb86f004a7792ed082aec3c1f330e869090f2248a965719562527d\
      66b42c153182fb3e988090cf0df43e5023fc881ddf9301a4eb4b1a1bd3f6634af145e94e735643d497b45c23\
      f1964071390293a4807d54be477884ffa761b7ae86338cbc4034ce20970aeb8224aec222fcd09f87d767f639\
      baec04e2768e78589d68f520f03dc7445210f564d370d38de7f52238ddce453c0e78410c",
);
const MODULUS_3072: [u8; 384] = hex_literal(
    b"8e8e7b7460820c668580ae20005ae6a6e888d1a3b04eebf8ae4454bbf16a03246d84e5e0755ddcbc67afdb3a\
      b95d87b60765e1c25a4ad9c96541cd5b5239d21c479dd985b2bbf6df046df39eaebea2db48856c71180a8953\
      73ade8152a85a7b258b18859895dbfb0a01e76e520f163dbc0ab50f945213ac79feef1b958e1b615893a192f\
      e329b025f10df972d7eb95a8d884b7819f46a93df04e7ba38b39a5d4bf9b409c2ae1e0f2ac58ce3ce2e8b413\
      a3b506570b36670fa4c15dfb9c8ac17adc82a0a480ac0bebbc98ac894a3d61ad1f80dd870e6a42a936ccb517\
      d9c6a1dd9d109d18c7496a2b5c57247180f487081193938cd3ac68487c65dfb03eef29b1de85705797f0b034\
      9b4734d88f4065da21e0a85827cdb72452a79d920e4399f8e5b4b596890a0353e61c55af24ea1cc8e6a26a36\
      dd6226446af019361c24e67c74cefe4ddf6d2ea40ba33c4bbd1ef398384b6e659e4232ff0b8a59f120d72daf\
      fa5e5e55100ba965f52fa9ab759bccb4c286904c84c9e28cf358ea2e15bccaf5",
);
const SIGNATURE_3072: [u8; 384] = hex_literal(
    b"40ad0501fc2989050a489dac8e80c8af4ac5a46a438addc77958431e81c2fb93fa3a56d3473c3629f6cf6331\
      e91cfd7ea7f6423c1bb327711e82b30304367be1cb7c7f023ed599c20cb2b5534b65ff0d3bf1b707b8a7eb2b\
      f507b74f08cbbec48c8ca06554ca15c9595442417438c07b5391c08d0b3f11d44fcd6b7594c31b701d584906\
      7874c574f80c8d8b57686902799d2e96ce2c7492121faefac84020c7d6cdc018af0d5ba7a74c03d92310d440\
      1e38cbc11cc1dedfe2a1f5bb3fbe6db6a36747897d60f206850e444d0cab8ef4c8b7dc6c0abe49baa3976d7a\
      3ff8d3dec84ba6a620c906e5f4da87dfac929193bf76d7ef42d7a078c59f32ef506c303a425f5a6392b05c7d\
      24b7cfc6e19498ed8f79219ccf37b3abdee578beeb22fdd4ccb91344275ae56ffa01ef39b9e18ee2263573cf\
      7ab63ede775f3984fa98a5be6ea649790bf8c28117523ba8f382bfdd43c08908a70283dd96ef47aa01e65792\
      ecbe02169ccc81840cd2d73545d723f5b8ce1d6b717cd836fa53144cb38e5bb4",
);
const MODULUS_4096: [u8; 512] = hex_literal(
    b"8f5191eb90e3e1a1d19efec106eff0f6f19fe6624051dd97f458771a72c2412d1b38a244614135c4e958272d\
      a3316480de83df529964eb9f8b6fe35ef938ba58efa2010b979ceeba020718d9ae0d1d0c7f19d657f2827df8\
      edc1ea979ceec997bfeb422fa4b48dac90dce1cdec755e4eb3f9ecad382b06ce28cb08c05343ad96fa61cb2e\
      68517aa2a9baef3f27f8fc40a50c7db0b3a1c7fc4c05fea8b87cb1dad6e6faad4fd3eedcf3d05c0886955b72\
      bbc48dc839baa7162b1aaa7874fd63748cf0ccfd2ccfe674f69b1cf77033bd6379fa91238dfde636e24f71c1\
      e295c5fee1fe8ab8bb8dc7efecbc7a8b64d312e10e67bf3cabebf2a593488db5438318e50286a4e864d5df45\
      4307c63418c4693cafea26c028f3969ef70ce580c586cae8dae1d59c8ed78c94f87a00c7a0e20acfd4816f16\
      c070cb7fcc611b73fed7d98721404e34816b90248cf5cbdc0069986dbd3cf653ee6acbfe718249ae99e50994\
      3c27de0a96e5c246be47b64d21b9ae987efad2cc7566221a4fc5097a85a5ca5ba3c168e65f7373559755bba7\
      c888ba1e4aeaf54d33ddd7d19d89e1b9979ad21d6b58f04d93f0a4275f6e951e4ea5ffb5525be31001992e2f\
      867afa424f2b745db26ebc1b7cf9b2f4a82aebc3cdb7b4cf4a01b4efff97ec007b2fad32dee5dd1bdff97a16\
      618c4df5a30f26624604d38069edb2ef4f3320dd9b9f1bd992ad8073",
);
const SIGNATURE_4096: [u8; 512] = hex_literal(
    b"856ab5181b0aa82a3a961b461d06b17cc86e8af9af06931aa1b722064c194c6ffe19c5a1de8e24ee7d0e1af3\
      4dfd4bcec44b9581e44d037e3434320b6f190f2c74c64f253b296a2b575d89644ebafee7399af00d7a9a0208\
      7406ff6694d03d90f2a421257d732a858178bbb478c1fe03f9b977ff1ebc37b4e8e67dfeccb671761ac57dfc\
      72b95b66e27e79c74efe89cb5158318013266a67b4b68eaceef8c3dae0b547286b5a583b18675717aae6d0e6\
      8935ba2cde621b1ec941d550cf1484141bbe5ded725efe5d8ac07691b278f65a41c95fef97e362cb2af0b1ad\
      7135cb33c53492c5f4e48a492c7f50fdab083f4e7c36513f90330b99f1c49be9ff5d7e220af54cbd7b25933d\
      dae4cbcf1f885f0f052284744004de12c3f72f45ca9fb4fe19cc69dc416c8f40921075ce9ecc3b32e9352d90\
      52a9cfd8af04510d5dcd10c1a880acae31520c491cd7e675f9ddf6dc34a85bd9489462fdce41aa9c470a4bdd\
      235da393c7d27ed3f893ff8b7ad46c8964d02da57c5c1d6ae6232d81b20f3ecdf786f6adc021e27d3ff8e23c\
      d559a5215e3e192ae6028f20ed3d93bac96acc4aff4472f41204158a61d2fc5202987b3d23d966e7e0d59632\
      4dd2ed83cf17f2193a4e3a67c679bf8fec4564ae020c046aafcca6364b8af2d0ab8916bbf90f61713d0057fb\
      bbe758ff59b6d73a07057be5429b9dbf7c8a3650d66d98c687eb11eb",
);
